"""Settings: their fields, how they are read, what names them."""
