"""What a py-libp2p host asks its manager, and what it does not by itself."""
