"""The service's edge. app.py: views.py, and what they are made of: who may see, who sends, what is shown."""
