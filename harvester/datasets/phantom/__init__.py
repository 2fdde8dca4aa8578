"""Made torsos with known truth."""
