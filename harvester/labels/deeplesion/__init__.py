"""DeepLesion's annotations as published."""
