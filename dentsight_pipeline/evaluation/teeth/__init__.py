"""Findings by tooth: which tooth a finding belongs to, and what follows from that."""
