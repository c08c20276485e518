"""The served model, and what stands between it and the network. One name, which a user's code will hardly have."""
