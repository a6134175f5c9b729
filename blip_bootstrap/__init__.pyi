from blip_bootstrap.audit.audits import audit as audit_round
from blip_bootstrap.config import load_config as load_config
from blip_bootstrap.loop.rounds import run_rounds as run_rounds
from blip_bootstrap.query.questions import query as ask
from blip_bootstrap.query.views import connect as connect

__all__ = ["__version__", "ask", "audit_round", "connect", "load_config", "run_rounds"]

__version__: str
