"""Labels of a finished run as files that other tools open, and what people said of them on the way back."""
