"""What a spec will build, train and cost, before a weight is loaded."""

from lensmith.planning.plan import Plan, StagePlan, plan

__all__ = ["Plan", "StagePlan", "plan"]
