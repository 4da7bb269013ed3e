"""Foundation models of others by name: what they are (`announcements`), and how each is made (`factories`)."""
