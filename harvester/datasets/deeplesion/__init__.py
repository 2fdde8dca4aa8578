"""DeepLesion as published."""
