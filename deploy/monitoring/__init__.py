"""Grafana dashboards and Prometheus rules, as Python: `python -m deploy.monitoring` writes them."""
