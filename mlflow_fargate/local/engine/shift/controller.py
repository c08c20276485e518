"""Carries out what `shift` decides: changes weights in moto, updates the routes, records the stage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from botocore.exceptions import ClientError

from mlflow_fargate.local.engine import traffic, transitions
from mlflow_fargate.local.engine.actions import Action, EnterStage, MoveTraffic, OpenHook, TimeOutHook
from mlflow_fargate.local.engine.routes import RouteTable
from mlflow_fargate.local.engine.shift import stage_transitions
from mlflow_fargate.local.engine.state import Service
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.moto_client import MotoClient


class ShiftController:
    """The part of the engine that shifts traffic."""

    def __init__(self, store: EcsStore, aws: MotoClient, routes: RouteTable, minute_seconds: float) -> None:
        self._store = store
        self._aws = aws
        self._routes = routes
        self._minute_seconds = minute_seconds

    def do(self, service: Service, action: Action, now: float) -> None:
        match action:
            case EnterStage(stage):
                self._enter_stage(service, stage, now)
            case MoveTraffic(production_percent, test_percent):
                self._move(service, production_percent, test_percent, now)
            case OpenHook(stage):
                minute = self._minute_seconds
                self._change(service, partial(stage_transitions.open_hook, stage=stage, now=now, minute_seconds=minute))
            case TimeOutHook(hook_id):
                self._change(service, partial(stage_transitions.time_out_hook, hook_id=hook_id, now=now))

    def lead_back(self, service: Service, now: float) -> None:
        """Sends all requests to blue again, before any task of green ends; does nothing if no traffic is shifted."""
        shift = service.shift
        if shift is None or shift.blue_id is None:
            return
        with contextlib.suppress(ClientError):  # the rules were deleted
            traffic.move(self._aws, service, 0.0, 0.0)
        self._note_shares(service, 0.0, 0.0, now)

    def _enter_stage(self, service: Service, stage: str, now: float) -> None:
        problem = traffic.find_problem(self._aws, service) if stage == "PRE_SCALE_UP" else None
        if problem:
            self._change(service, partial(transitions.request_rollback, now=now, reason=problem))
            return
        self._change(service, partial(stage_transitions.enter_stage, stage=stage, now=now))

    def _move(self, service: Service, production_percent: float, test_percent: float, now: float) -> None:
        try:
            traffic.move(self._aws, service, production_percent, test_percent)
        except ClientError:
            self._change(service, partial(transitions.request_rollback, now=now, reason=stage_transitions.NO_RULES))
            return
        self._note_shares(service, production_percent, test_percent, now)

    def _note_shares(self, service: Service, production: float, test: float, now: float) -> None:
        self._routes.listeners_changed()
        self._routes.refresh()
        moved = partial(stage_transitions.move_traffic, production_percent=production, test_percent=test, now=now)
        self._change(service, moved)

    def _change(self, service: Service, change: Callable[[Service], Service]) -> None:
        self._store.change_service(service.arn, change)
