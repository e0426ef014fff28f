"""What a host of libp2p 0.8.1 does not ask or limit by itself."""
