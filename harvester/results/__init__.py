"""What a run says: its summary, the hidden truth's verdict, ablations, completeness."""
