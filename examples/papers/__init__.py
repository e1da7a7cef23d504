"""What ``reproduce_papers.py`` is made of: tasks, monitored runs, claims and the report."""
