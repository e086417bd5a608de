"""WebRTC: descriptions, ICE, video encoding, and packets to viewers."""
