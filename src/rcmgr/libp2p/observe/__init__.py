"""What happens in a py-libp2p host."""
