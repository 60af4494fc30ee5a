"""An auditable ML pipeline for dental findings on panoramic X-rays. Research only; not a medical device."""
