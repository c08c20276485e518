"""The control loop: observe, decide, act, repeat. No Flask here."""
