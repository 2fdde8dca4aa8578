"""Scored tubelets and labels -> harvested lesions and hard negatives."""
