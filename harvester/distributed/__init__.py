"""Ray Data inference, Ray Train training and Ray Tune selection: the only imports of ray."""
