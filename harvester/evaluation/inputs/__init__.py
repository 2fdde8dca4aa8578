"""Tables of marks and detections, read and checked."""
