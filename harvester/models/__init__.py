"""What both networks share: backbones, training, devices, memory."""
