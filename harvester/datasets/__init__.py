"""Where volumes come from: archives, DeepLesion, phantoms, lesions inserted into real CT."""
