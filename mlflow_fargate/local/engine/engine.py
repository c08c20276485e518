"""The local ECS's scheduler: compares desired and observed state, and acts on the difference.

    EcsStore          desired state (services) and observed state (tasks)
    rolling_decisions.decide    the difference, as actions (pure)
    Engine            carries out the actions: starts (task_life) and stops tasks, updates services (transitions)

One thread calls `decide` for every service after each change, and periodically. It holds no lock during calls or while
it starts a task. Nothing survives a restart: moto's state does not either.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.cloudwatch.alarms import AlarmEvaluator, AlarmStates
from mlflow_fargate.local.container.launch import ExecSpec
from mlflow_fargate.local.container.task_runner import TaskRunner
from mlflow_fargate.local.engine import transitions
from mlflow_fargate.local.engine.actions import (
    Action,
    CompleteRollout,
    Deactivate,
    FailRollout,
    ForgetRollout,
    NoteSteadiness,
    NoteStuck,
    RollBack,
    StartTasks,
    StopTask,
    WatchAlarms,
)
from mlflow_fargate.local.engine.rolling_decisions import decide
from mlflow_fargate.local.engine.routes import RouteTable
from mlflow_fargate.local.engine.shift.controller import ShiftController
from mlflow_fargate.local.engine.state import Rollout, Service, TargetHealth, Task
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.engine.task_life import TaskLife, initial_statuses, initial_targets
from mlflow_fargate.local.engine.task_logs import LogShipper
from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.task_definition import TaskDefinition

logger = logging.getLogger(__name__)

_TURN_SECONDS = 0.5  # without a change: to notice the end of pauses and grace periods
_SHORTEST_TURN_SECONDS = 0.05
_STOP_SECONDS = 10.0
_FIRST_HOST = 10  # AWS reserves a subnet's first addresses


class Engine:
    """Runs the tasks that the services in `store` require, with `runner`, and keeps the `routes` current.

    `minute_seconds`: the length of a minute of bake time or of a hook; shorter in tests.
    """

    def __init__(
        self,
        store: EcsStore,
        aws: MotoClient,
        runner: TaskRunner,
        *,
        routes: RouteTable,
        alarms: AlarmEvaluator | None = None,
        clock: Callable[[], float] = time.time,
        minute_seconds: float = 60.0,
    ) -> None:
        self.store = store
        self._aws = aws
        self._runner = runner
        self._routes = routes
        self._alarms = alarms
        self._clock = clock
        self._minute_seconds = minute_seconds
        self._shift_controller = ShiftController(store, aws, routes, minute_seconds)
        self._logs = LogShipper(aws)
        self._lives: dict[str, TaskLife] = {}
        self._networks: dict[str, ipaddress.IPv4Network] = {}
        self._addresses = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ecs-engine", daemon=True)

    def start(self) -> None:
        self._logs.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends all tasks, without draining, and the threads; returns within seconds."""
        self._stopping.set()
        self.store.changed.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        until = time.monotonic() + _STOP_SECONDS
        lives = list(self._lives.values())
        for life in lives:
            life.stop(hurry=True)
        for life in lives:
            life.join(max(0.1, until - time.monotonic()))
        self._logs.stop()

    def stop_task(self, task_arn: str, reason: str, stop_code: str) -> Task:
        """Stops the task and returns it; it is replaced if its service still needs it."""

        def ask(task: Task) -> Task:
            if not task.is_wanted:
                return task
            return replace(task, desired_status="STOPPED", stopped_reason=reason, stop_code=stop_code)

        before, after = self.store.change_task(task_arn, ask)
        life = self._lives.get(task_arn)
        if before.is_wanted and life is not None:
            life.stop()
            self._say_stopping(after)
        return after

    def exec_spec(self, task: Task, container: str, command: str) -> ExecSpec | None:
        """Returns how to run another command in the task's container; None if it is not running."""
        return self._runner.exec_spec(task.id, container, command)

    # TaskEvents

    def task_changed(self, task_arn: str, **changes: Any) -> None:
        before, after = self.store.change_task(task_arn, lambda task: replace(task, **changes))
        if before.last_status != "RUNNING" and after.last_status == "RUNNING":
            for target_group_arn, _ in after.targets:
                self._say(after.service_arn, f"registered 1 targets in (target-group {target_group_arn})")
        if after.is_stopped and not before.is_stopped:
            self._lives.pop(task_arn, None)
            self._routes.push()
            if before.desired_status == "RUNNING":
                self._count_failure(after)
        self._count_success(before, after)
        logger.info("task %s: %s %s", after.id, after.last_status, after.stopped_reason or "")

    def target_changed(self, task_arn: str, target_group_arn: str, health: TargetHealth) -> None:
        before, after = self.store.set_target(task_arn, target_group_arn, health)
        # Now, not in the next turn: a draining target must get no more requests, however short its delay is.
        self._routes.push()
        self._count_success(before, after)

    def _count_success(self, before: Task, after: Task) -> None:
        now = self._clock()
        if after.is_healthy(now) and not before.is_healthy(now):
            self.store.change_service(
                after.service_arn, partial(transitions.count_success, rollout_id=after.rollout_id)
            )

    # The turn

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.store.changed.clear()
            try:
                self._turn()
            except Exception:
                # A bug in one turn must not end the scheduler: it is logged, and the next turn runs.
                logger.exception("error in the engine's scheduler")
            self.store.changed.wait(_TURN_SECONDS)
            self._stopping.wait(_SHORTEST_TURN_SECONDS)  # groups changes into one turn

    def _turn(self) -> None:
        now = self._clock()
        self.store.forget_old_tasks(now)
        alarms = self._alarms.look(now) if self._alarms else AlarmStates()
        for service in self.store.services():
            for action in decide(service, self.store.tasks(service.arn), now, self._minute_seconds, alarms):
                self._do(service, action, now)
        self._routes.refresh()

    def _do(self, service: Service, action: Action, now: float) -> None:
        match action:
            case StartTasks(rollout_id, count):
                self._start_tasks(service, rollout_id, count)
            case StopTask(task_arn, reason, is_failure):
                self._stop_task(task_arn, reason, is_failure=is_failure)
            case CompleteRollout(rollout_id):
                self._change(service, partial(transitions.complete_rollout, rollout_id=rollout_id, now=now))
            case FailRollout(rollout_id, alarms):
                self._shift_controller.lead_back(service, now)
                fail = partial(transitions.fail_rollout, rollout_id=rollout_id, now=now, alarms=alarms)
                self._change(service, fail)
            case WatchAlarms(names):
                self._change(service, partial(transitions.watch_alarms, names=names))
            case RollBack():
                self._shift_controller.lead_back(service, now)
                reason = service.deployments[0].reason or transitions.USER_ROLLED_BACK
                self._change(service, partial(transitions.roll_back, reason=reason, now=now))
            case ForgetRollout(rollout_id):
                self._change(service, partial(transitions.forget_rollout, rollout_id=rollout_id))
            case NoteSteadiness(is_steady):
                self._change(service, partial(transitions.note_steadiness, is_steady=is_steady, now=now))
            case NoteStuck():
                self._change(service, partial(transitions.note_stuck, now=now))
            case Deactivate():
                self._change(service, transitions.deactivate)
            case _:
                self._shift_controller.do(service, action, now)

    def _change(self, service: Service, change: Callable[[Service], Service]) -> None:
        self.store.change_service(service.arn, change)

    def _start_tasks(self, service: Service, rollout_id: str, count: int) -> None:
        rollout = next(rollout for rollout in service.rollouts if rollout.id == rollout_id)
        try:
            definition = self._definition(rollout.revision.task_definition_arn)
            tasks = [self._make_task(service, rollout, definition) for _ in range(count)]
        except ClientError as error:
            self._say(service.arn, f"was unable to place a task. Reason: {error.response['Error']['Message']}")
            self._count_failure_of(service.arn, rollout_id)
            return
        for task in tasks:
            self.store.put_task(task)
            life = TaskLife(
                task,
                definition,
                target_group_arns=rollout.revision.group_arns,
                aws=self._aws,
                runner=self._runner,
                logs=self._logs,
                events=self,
                clock=self._clock,
            )
            self._lives[task.arn] = life
            life.start()
        self._say(service.arn, transitions.tell_tasks("started", tasks))

    def _make_task(self, service: Service, rollout: Rollout, definition: TaskDefinition) -> Task:
        network = (service.settings.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
        subnets = network.get("subnets") or [""]
        self._addresses += 1
        subnet = subnets[self._addresses % len(subnets)]
        cluster = service.cluster_arn.rsplit("/", 1)[-1]
        prefix = service.cluster_arn.split(":cluster/", 1)[0]
        return Task(
            arn=f"{prefix}:task/{cluster}/{secrets.token_hex(16)}",
            service_arn=service.arn,
            cluster_arn=service.cluster_arn,
            rollout_id=rollout.id,
            task_definition_arn=definition.arn,
            family=definition.family,
            containers=initial_statuses(definition, with_all=self._runner.runs_all_containers),
            cpu=definition.cpu,
            memory=definition.memory,
            ip=self._address(subnet),
            subnet_id=subnet,
            created_at=self._clock(),
            runs_commands=bool(rollout.revision.settings.get("enableExecuteCommand")),
            targets=initial_targets(rollout.revision.group_arns),
        )

    def _address(self, subnet_id: str) -> str:
        """Returns an address in the subnet that no recent task used."""
        if subnet_id not in self._networks:
            self._networks[subnet_id] = self._aws.subnet_network(subnet_id)
        network = self._networks[subnet_id]
        return str(network[_FIRST_HOST + self._addresses % max(1, network.num_addresses - _FIRST_HOST - 1)])

    def _definition(self, arn: str) -> TaskDefinition:
        # Read each time: unlike AWS, moto reuses revision numbers after a family was deleted.
        return self._aws.task_definition(arn)

    def _stop_task(self, task_arn: str, reason: str, *, is_failure: bool) -> None:
        task = self.store.task(task_arn)
        if task is None or not task.is_wanted:
            return
        unhealthy = task.unhealthy_target()
        if is_failure and unhealthy is not None:
            arn, health = unhealthy
            where = f"(port {self._definition(task.task_definition_arn).main.ports[0]})"
            said = (
                f"(task {task.id}) {where} is unhealthy in (target-group {arn}) due to (reason {health.description})."
            )
            self._say(task.service_arn, said)
        elif is_failure:
            self._say(task.service_arn, f"(task {task.id}) failed container health checks.")
        self.stop_task(task_arn, reason, "ServiceSchedulerInitiated")
        if is_failure:
            self._count_failure(task)

    def _say_stopping(self, task: Task) -> None:
        if any(health.state == "healthy" for _, health in task.targets):
            self._say(task.service_arn, "has begun draining connections on 1 tasks.")
        for arn, _ in task.targets:
            self._say(task.service_arn, f"deregistered 1 targets in (target-group {arn})")
        self._say(task.service_arn, transitions.tell_tasks("stopped", [task]))

    def _count_failure(self, task: Task) -> None:
        self._count_failure_of(task.service_arn, task.rollout_id)

    def _count_failure_of(self, service_arn: str, rollout_id: str) -> None:
        now = self._clock()
        self.store.change_service(service_arn, partial(transitions.count_failure, rollout_id=rollout_id, now=now))

    def _say(self, service_arn: str, message: str) -> None:
        now = self._clock()
        self.store.change_service(service_arn, lambda service: transitions.say(service, message, now))
