"""Teacher servers: token log-probabilities of a fixed model, behind ``TeacherService``."""
