"""What requests cost, and how much memory the task has for them, so that no permitted request ends the container."""
