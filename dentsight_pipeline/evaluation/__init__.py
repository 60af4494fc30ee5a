"""Pure evaluation: COCO metrics, operating points, bootstrap, calibration, consistency, agreement, plots."""
