"""Faults to plant, one at a time: each changes what the library does, and a test has to notice.

Who changes a line that is named here changes the row as well: that each fragment is there, once, is a test of its own.
The tests of a row are the narrowest that exist; where only real processes show a fault, there are few rows.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Mutant:
    """One fault."""

    name: str
    """What goes wrong, in short."""
    file: str
    """Where, below `src/spindle_trio`."""
    fragment: str
    """What stands there, exactly once."""
    replacement: str
    """What is put in its place."""
    tests: tuple[str, ...]
    """Names of tests, below `tests`: at least one of them has to fail."""


MUTANTS: Final = (
    # ---- the table of states
    Mutant(
        "an exit without a word counts as completed",
        "_supervision/_state_table.py",
        "(Phase.RUNNING, Input.EXIT): Rule(Phase.ENDING, Action.NOTHING, FAILED)",
        "(Phase.RUNNING, Input.EXIT): Rule(Phase.ENDING, Action.NOTHING, COMPLETED)",
        ("core/test_lifecycle.py::test_each_input_does_in_each_phase_what_the_contract_says",),
    ),
    Mutant(
        "the last of the host's reasons wins, not the first",
        "_supervision/_lifecycle.py",
        "if said is Input.HOST_STOP and not self.is_settled and self.host_reason is None:",
        "if said is Input.HOST_STOP and not self.is_settled:",
        ("core/test_lifecycle.py::test_the_first_of_the_hosts_reasons_stays",),
    ),
    Mutant(
        "a final word while stopping begins another grace period",
        "_supervision/_lifecycle.py",
        "self.grace_deadline = min(self.grace_deadline, now + self.grace_period)",
        "self.grace_deadline = now + self.grace_period",
        ("core/test_lifecycle.py::test_a_final_word_while_stopping_does_not_extend_the_grace_period",),
    ),
    Mutant(
        "a child can beat into the future",
        "_supervision/_lifecycle.py",
        "self.heartbeat_at = max(self.heartbeat_at, min(at, now))",
        "self.heartbeat_at = max(self.heartbeat_at, at)",
        ("core/test_lifecycle.py::test_a_heartbeat_is_never_before_ready_nor_in_the_future",),
    ),
    Mutant(
        "what was killed is never abandoned",
        "_supervision/_lifecycle.py",
        "self.kill_deadline = min(self.kill_deadline, now + ABANDON_SECONDS)",
        "pass",
        ("core/test_lifecycle.py::test_a_killed_process_is_abandoned_in_time_and_only_once",),
    ),
    # ---- the registry
    Mutant(
        "a key is a joined string",
        "_host/_registry.py",
        "place = None if key is None else (user_id, kind, key)",
        'place = None if key is None else ("", "", f"{user_id}:{kind}:{key}")',
        ("core/test_registry.py::test_keys_are_compared_as_tuples",),
    ),
    Mutant(
        "the replacement that came last goes first",
        "_host/_registry.py",
        "keyed.waiting.popitem(last=False)",
        "keyed.waiting.popitem(last=True)",
        ("core/test_registry.py::test_replacements_take_over_in_the_order_in_which_they_came",),
    ),
    Mutant(
        "a place that was given up stays taken",
        "_host/_registry.py",
        "        self._held -= 1\n",
        "",
        ("core/test_registry.py::test_the_limit_counts_processes_and_a_replacement_not_twice",),
    ),
    # ---- the supervisor
    Mutant(
        "what a process sent before its exit is not read",
        "_supervision/_supervisor.py",
        "            intake.take_in_all()\n",
        "",
        ("contract/test_states_ending.py::test_an_exit_first_takes_in_what_was_sent_before_it_in_memory",),
    ),
    Mutant(
        "a deadline that fires late is believed",
        "_supervision/_supervisor.py",
        "        intake.take_in_control(most=CONTROL_FRAMES_AT_A_TIME)\n        process.take_in_calls()\n"
        "        process.record.look_at_heartbeat()\n",
        "        process.take_in_calls()\n",
        (
            "contract/test_rules_of_patience.py::test_a_jump_past_the_startup_deadline_takes_in_ready_first",
            "contract/test_rules_of_patience.py::test_a_jump_over_five_heartbeat_timeouts_kills_nobody",
        ),
    ),
    Mutant(
        "the time in which the host stood still counts against a start",
        "_supervision/_deadlines.py",
        "            record.life.extend_deadline(late, now)\n",
        "            pass\n",
        (
            # In memory the order of tasks decides whether it shows.
            "contract/test_rules_of_patience.py::test_a_stall_before_the_launch_is_not_the_childs[memory]",
            "contract/test_rules_of_patience.py::test_a_stall_during_the_launch_is_not_the_childs[forked]",
            "contract/test_rules_of_patience.py::test_a_stall_before_the_launch_is_not_the_childs[forked]",
        ),
    ),
    Mutant(
        "who is held up by a full inbox is not read when it is stopped",
        "_supervision/_supervised_process.py",
        "        self.inbox.wake_room()\n",
        "",
        (
            "contract/test_inboxes.py::test_while_it_stops_the_host_reads_on_beyond_the_bound[memory]",
            "contract/test_inboxes.py::test_a_child_that_was_held_up_when_it_is_stopped_gets_rid_of_what_waits[memory]",
        ),
    ),
    Mutant(
        "an overflowing outbox is overlooked",
        "_supervision/_supervised_process.py",
        'self.feed(Input.BROKEN, text="its outbox overflowed: it does not read the messages that it is sent")',
        "pass",
        ("collaboration/test_worker_protocol.py::test_a_process_that_does_not_read_fails_and_holds_up_nobody",),
    ),
    Mutant(
        "messages that never arrived are not missed",
        "_supervision/_supervisor.py",
        "lost = self._announced_messages - process.inbox.received",
        "lost = 0",
        ("contract/test_last_messages.py::test_a_process_that_announces_more_messages_than_arrive_is_told_of[forked]",),
    ),
    # ---- the reading side
    Mutant(
        "an end waits for a reader",
        "_supervision/_intake.py",
        "while not (self._listener.reads_on or self._inbox.room):",
        "while not self._inbox.room:",
        (
            "contract/test_inboxes.py::test_while_it_stops_the_host_reads_on_beyond_the_bound[memory]",
            "contract/test_inboxes.py::test_a_child_that_was_held_up_when_it_is_stopped_gets_rid_of_what_waits[memory]",
        ),
    ),
    Mutant(
        "messages that came together with a broken one are lost",
        "_supervision/_intake.py",
        "payloads.extend(map(self._reader.read, bodies))  # keeps what it has, whatever is raised",
        "payloads = list(map(self._reader.read, bodies))",
        ("reliability/test_wire.py::test_a_host_in_memory_ends_each_process_as_its_frames_deserve[150]",),
    ),
    Mutant(
        "a broken message hides the ready that was said before it",
        "_supervision/_intake.py",
        "            if self._listener.is_starting:",
        "            if False:",
        ("reliability/test_wire.py::test_a_host_over_sockets_ends_each_process_as_its_bytes_deserve[150]",),
    ),
    Mutant(
        "what is sent at the end is not bounded",
        "_supervision/_intake.py",
        "            self._ending_bytes += size\n",
        "",
        ("contract/test_inboxes.py::test_more_than_ending_bytes_while_it_ends_breaks_the_protocol[memory]",),
    ),
    Mutant(
        "a frame one byte longer than its bound is taken in",
        "_protocol/_frames.py",
        "if most is not None and size > most:",
        "if most is not None and size > most + 1:",
        (
            "reliability/test_wire.py::test_mutated_frames_are_taken_in_or_break_the_protocol_and_nothing_else[few-control]",
        ),
    ),
    Mutant(
        "a body that may be too deep is believed for its length",
        "_protocol/_json_codec.py",
        "self._proven_bytes = min(self._counted_bytes, 2 * bounds.depth + 1)",
        "self._proven_bytes = min(self._counted_bytes, 2 * bounds.depth + 3)",
        (
            "reliability/test_wire.py::test_mutated_frames_are_taken_in_or_break_the_protocol_and_nothing_else[few-messages]",
        ),
    ),
    # ---- a worker's processes
    Mutant(
        "a spawn that is cancelled leaves its process the grace period",
        "_host/_worker_scope.py",
        "            process.caller_gone()\n",
        "            process.request_stop(StopOptions())\n",
        (
            "contract/test_states_starting.py::test_a_cancelled_spawn_kills_at_once_and_goes_on_when_it_is_reaped[memory]",
        ),
    ),
    Mutant(
        "of two replacements the second one waits for ever",
        "_host/_live_processes.py",
        "for grace in {successor.replace_grace for successor in self._registry.successors(claim)}:",
        "for grace in ():",
        ("contract/test_keys.py::test_replacements_of_one_key_queue_in_order[memory]",),
    ),
    Mutant(
        "a list shows the processes of the user who is named, whoever asks",
        "_host/_worker_scope.py",
        "            wanted = attrs.evolve(wanted, user_id=self.user_id)\n",
        "            pass\n",
        ("contract/test_scopes.py::test_every_process_of_a_user_scoped_worker_is_that_user_s[memory]",),
    ),
    Mutant(
        "anybody may stop and send",
        "_host/_worker_scope.py",
        "if self.user_id is None and user_id is not None and user_id != process.user_id:",
        "if False:",
        ("contract/test_scopes.py::test_another_user_s_process_is_neither_stopped_nor_sent_to[memory]",),
    ),
    Mutant(
        "a spawn that waits for a key outlives its worker",
        "_host/_live_processes.py",
        "                await turn.wait()\n                self._refuse_closed()\n",
        "                await turn.wait()\n",
        ("contract/test_key_races.py::test_a_spawn_that_is_queued_when_the_worker_closes_is_refused[memory]",),
    ),
    # ---- inboxes, channels, events
    Mutant(
        "a full inbox is full of messages only, not of bytes",
        "_messages/_inbox.py",
        "if self.held_bytes < self._max_bytes else 0",
        "if True else 0",
        ("core/test_inbox.py::test_the_room_ends_with_the_bytes_too",),
    ),
    Mutant(
        "the fastest reader decides what is forgotten",
        "_messages/_inbox.py",
        "passed = min([cursor.next for cursor in self._cursors])",
        "passed = max([cursor.next for cursor in self._cursors])",
        ("core/test_inbox.py::test_a_message_goes_when_every_subscription_has_passed_it",),
    ),
    Mutant(
        "a handler sees messages before their turn",
        "_messages/_inbox.py",
        "if self._has_handlers:  # a handler may look",
        "if False:  # a handler may look",
        ("core/test_inbox.py::test_a_handler_sees_no_message_of_a_batch_before_its_turn",),
    ),
    Mutant(
        "what is held is heard process by process, not in the order of arrival",
        "_messages/_hub.py",
        "in sorted(held, key=itemgetter(1))]",
        "in held]",
        ("core/test_inbox.py::test_the_first_handler_gets_what_was_kept_while_nobody_listened_in_order_of_arrival",),
    ),
    Mutant(
        "an event that a handler causes overtakes the one that it was called with",
        "_messages/_broadcast.py",
        "        if self._is_publishing:\n            return\n",
        "",
        ("core/test_broadcast.py::test_a_value_published_by_a_handler_comes_after_the_one_that_it_was_called_with",),
    ),
    Mutant(
        "nobody is told of events that were dropped",
        "_messages/_broadcast.py",
        "self._missed += 1",
        "self._missed += 0",
        ("core/test_broadcast.py::test_a_channel_that_falls_behind_loses_the_oldest_and_says_so_once",),
    ),
    Mutant(
        "a handler that raises SystemExit ends whoever publishes",
        "_messages/_broadcast.py",
        "except BaseException:  # noqa: ASYNC103  # nothing is awaited in a handler",
        "except Exception:",
        ("core/test_broadcast.py::test_a_handler_that_raises_is_logged_and_disturbs_nothing",),
    ),
    Mutant(
        "a message overtakes a sender who waits",
        "_protocol/_outbox.py",
        "return self._queue is not None and self._queue.turn.locked() and not self._is_broken",
        "return False",
        ("core/test_outbox.py::test_nobody_overtakes_a_sender_that_waits_although_there_is_room",),
    ),
    # ---- the worker protocol
    Mutant(
        "answers wait behind messages",
        "_worker_protocol/_writer.py",
        "        if self._first:\n            return self._first.popleft()\n",
        "        if self._first and not self._last:\n            return self._first.popleft()\n",
        ("collaboration/test_worker_protocol_server.py::test_answers_and_events_go_out_before_messages",),
    ),
    Mutant(
        "the answer to a spawn is as of now",
        "_worker_protocol/_notice_sender.py",
        "self._ready.pop(process.process_id, process.info)",
        "process.info",
        (
            "collaboration/test_worker_protocol_server.py::test_the_answer_to_a_spawn_is_as_of_ready_whatever_has_happened_since",
        ),
    ),
    Mutant(
        "messages that follow the terminal event are lost",
        "_worker_protocol/_remote_process.py",
        "self._to_follow = to_follow",
        "self._to_follow = 0",
        (
            "collaboration/test_worker_protocol_client.py::test_messages_that_follow_the_terminal_event_are_received_before_the_end",
        ),
    ),
    Mutant(
        "a process whose spawn was cancelled lives on",
        "_worker_protocol/_remote_worker.py",
        "            if pending.is_abandoned:\n",
        "            if False:\n",
        (
            "collaboration/test_worker_protocol_client.py::test_a_cancelled_spawn_returns_at_once_and_its_process_is_stopped_when_it_is_named",
        ),
    ),
    # ---- calls over the worker protocol
    Mutant(
        "a cancelled call goes on in the process",
        "_worker_protocol/_remote_calls.py",
        "self._writer.put_urgent(ProcessCallCancel(request_id))",
        "pass",
        ("collaboration/test_worker_protocol_calls.py::test_a_cancelled_call_goes_on_at_once_and_is_cancelled_there",),
    ),
    Mutant(
        "a call that nobody waits for is sent",
        "_worker_protocol/_remote_calls.py",
        "        if pending.is_abandoned:\n            self._pending.pop",
        "        if False:\n            self._pending.pop",
        (
            "collaboration/test_worker_protocol_calls.py::test_a_call_that_is_cancelled_before_it_has_left_is_never_sent",
        ),
    ),
    Mutant(
        "a call takes all its time along, whenever it leaves",
        "_worker_protocol/_remote_calls.py",
        "left = pending.deadline - trio.current_time()",
        "left = pending.deadline",
        ("collaboration/test_worker_protocol_calls.py::test_what_is_left_of_the_time_travels_as_of_its_leaving",),
    ),
    Mutant(
        "credit goes back for each item",
        "_messages/_item_channel.py",
        "if 2 * self._received >= self._window and not self.is_relayed:",
        "if not self.is_relayed:",
        (
            "collaboration/test_worker_protocol_calls.py::test_items_are_read_and_credit_goes_back_at_half_of_the_window",
        ),
    ),
    Mutant(
        "a host may send more items than the window",
        "_messages/_item_channel.py",
        "        if not self._credit:\n            return False\n",
        "",
        ("collaboration/test_worker_protocol_calls.py::test_a_host_that_sends_more_than_the_window_ends_the_stream",),
    ),
    Mutant(
        "a stream that is left goes on",
        "_messages/_item_channel.py",
        "if not self.is_over and not self.is_given_up:\n            self._give_up()",
        "if False:\n            self._give_up()",
        (
            "collaboration/test_worker_protocol_calls.py::test_a_stream_that_is_left_is_cancelled_and_what_still_comes_is_dropped",
        ),
    ),
    Mutant(
        "a cancelled call is not answered",
        "_worker_protocol/_served_calls.py",
        "if answer is None:",
        "if answer is None and not call.scope.cancelled_caught:",
        ("collaboration/test_worker_protocol_calls.py::test_a_cancelled_call_is_answered_once_and_at_once",),
    ),
    Mutant(
        "calls that were answered count as waiting",
        "_worker_protocol/_served_calls.py",
        "self._waiting.release(call.size)",
        "pass",
        ("collaboration/test_worker_protocol_calls.py::test_calls_that_wait_are_bounded_in_number",),
    ),
    Mutant(
        "a stream ends well without the item that a line cannot carry",
        "_worker_protocol/_notice_sender.py",
        "notice = error_answer(notice.request_id, self._lost_items.pop(notice.request_id))",
        "notice = Response(notice.request_id)",
        ("collaboration/test_worker_protocol_calls.py::test_what_a_line_cannot_carry_is_an_error_of_its_call_alone",),
    ),
    Mutant(
        "malformed credit ends its call",
        "wire/__init__.py",
        'or data.get("type") in ("backend_process_call_cancel", "backend_process_call_credit")',
        "",
        ("collaboration/test_worker_protocol_calls.py::test_wrong_credit_is_logged_and_ends_no_call",),
    ),
    Mutant(
        "a process has credit for what its reader elsewhere has not read",
        "_messages/_item_channel.py",
        "if 2 * self._received >= self._window and not self.is_relayed:",
        "if 2 * self._received >= self._window:",
        ("collaboration/test_worker_protocol_calls.py::test_the_far_readers_credit_goes_through_to_the_process",),
    ),
    Mutant(
        "a process elsewhere counts as idle while a cancelled handler goes on",
        "_worker_protocol/_remote_calls.py",
        "await self._line.ask_idle(self._process)",
        "await trio.lowlevel.checkpoint()",
        ("collaboration/test_worker_protocol.py::test_a_pool_works_for_a_worker_elsewhere",),
    ),
    Mutant(
        "a peer gives credit for more items than it was sent",
        "_worker_protocol/_served_calls.py",
        "items = min(items, call.passed_on)",
        "items = min(items, 3)",
        (
            "collaboration/test_worker_protocol_calls.py::test_items_of_a_stream_come_before_its_end_and_credit_goes_through",
        ),
    ),
    # ---- launchers
    Mutant(
        "an entry may link out of its root",
        "launchers/_entry_path.py",
        'return path.startswith(real_root if real_root.endswith("/") else f"{real_root}/")',
        "return True",
        ("launchers/test_entry_path.py",),
    ),
    Mutant(
        "what is dropped of the output is not counted",
        "launchers/_local/_output.py",
        "            self.dropped += excess\n",
        "",
        ("launchers/test_output.py::test_a_tail_keeps_the_last_bytes_and_counts_the_others",),
    ),
    Mutant(
        "a cancelled launch forgets the process that is being started",
        "launchers/_local/_launch_thread.py",
        "            with trio.CancelScope(deadline=trio.current_time() + PATIENCE, shield=True):\n",
        "            with trio.CancelScope(deadline=trio.current_time() + PATIENCE):\n",
        ("launchers/test_python_launcher.py::test_a_cancellation_while_the_thread_is_at_work_waits_for_what_it_makes",),
    ),
    Mutant(
        "what left its group is not killed with its process",
        "launchers/_local/_tree.py",
        "                    discovered += 1\n                members.append(child)\n",
        "                    discovered += 1\n",
        ("launchers/test_tree.py::test_a_chain_of_sessions_is_killed_to_its_last_link",),
    ),
    # ---- the fork server
    Mutant(
        "the end of a process waits for forks",
        "fork_server/_server.py",
        "events = self._poll.poll(0 if self._asked else ",
        "events = [] if self._asked else self._poll.poll(",
        ("launchers/test_fork_server_link.py::test_a_server_reaps_before_it_forks_and_forks_in_order",),
    ),
    Mutant(
        "a tree has no bound",
        "fork_server/_namespace_level.py",
        "if self._bounds_numbers else []",
        "if False else []",
        ("launchers/test_containment.py::test_a_fork_bomb_is_bounded_by_the_namespace",),
    ),
    Mutant(
        "an init keeps the root's descriptors",
        "fork_server/_bare_inits.py",
        '("close_range", (0, _LAST_FD, 0)), ',
        "",
        ("launchers/test_bare_inits.py::test_an_init_shares_the_roots_memory_and_has_no_descriptor",),
    ),
    Mutant(
        "an init counts as ready that could not mount",
        "fork_server/_bare_inits.py",
        'if not is_ready or (self._has_own_proc and seen.value != b"1"):',
        "if not is_ready:",
        ("launchers/test_bare_inits.py::test_an_init_that_could_not_mount_is_none",),
    ),
    Mutant(
        "no init is forked where a clone is refused",
        "fork_server/_inits.py",
        "                pass  # a fork may work",
        "                raise  # a fork may work",
        ("launchers/test_bare_inits.py::test_where_a_system_refuses_what_it_takes_inits_are_forked",),
    ),
    Mutant(
        "orphans stay zombies",
        "fork_server/_inits.py",
        "for ignored in (signals.SIGCHLD, ",
        "for ignored in (",
        ("launchers/test_bare_inits.py::test_an_orphan_that_ends_leaves_no_zombie",),
    ),
    Mutant(
        "a guard does not look whether its host lives",
        "fork_server/_guard.py",
        "link.is_over(pause, pidfd, host)",
        "link.is_over(pause, pidfd)",
        (
            "launchers/test_containment_surroundings.py::test_a_forked_copy_of_a_host_that_is_killed_keeps_no_process_alive",
        ),
    ),
    Mutant(
        "any level of containment will do for a host that demands one",
        "_host/_host_scope.py",
        "launcher.containment.is_at_least(required)",
        "launcher.containment",
        ("launchers/test_containment.py::test_a_host_that_demands_more_than_it_gets_does_not_open",),
    ),
    # ---- spares
    Mutant(
        "what was read ahead is used whatever has become of the file",
        "child/_entry.py",
        "if ahead is not None and ahead[0] == identity_of(status):",
        "if ahead is not None:",
        ("launchers/test_read_ahead.py::test_an_entry_that_was_edited_after_it_was_read_ahead_runs_as_it_is_now",),
    ),
    Mutant(
        "a compiled file is believed by the second and the size that it notes",
        "child/_entry.py",
        "if os.fstat(fd).st_mtime_ns < self._status.st_ctime_ns + _SETTLED_NS:",
        "if False:",
        ("launchers/test_read_ahead.py::test_random_edits_against_spawns_make_no_stale_run",),
    ),
    Mutant(
        "an entry that was accepted once is accepted although it has become a link",
        "launchers/_entry_path.py",
        'stat.S_ISREG(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}") == path',
        "stat.S_ISREG(os.fstat(fd).st_mode)",
        (
            "launchers/test_read_ahead.py::"
            "test_an_entry_that_is_replaced_linked_elsewhere_or_removed_is_not_run_as_it_was",
        ),
    ),
    Mutant(
        "an order that reaches a spare which has died is lost with it",
        "launchers/_local/_server_launcher.py",
        "            except trio.BrokenResourceError:\n                spare.discard()",
        "            except ZeroDivisionError:\n                spare.discard()",
        ("launchers/test_read_ahead.py::test_a_spare_that_has_just_died_costs_its_launch_nothing",),
    ),
    Mutant(
        "a launch does not wake up whoever asks for spares",
        "launchers/_local/_process_pool.py",
        "self._look_at = self._sleep.deadline = at",
        "self._look_at = at",
        ("launchers/test_fork_server.py::test_spares_are_processes_that_wait_and_the_next_launches_take_them",),
    ),
    Mutant(
        "a spare for a plain function runs Trio all the same",
        "fork_server/_forked.py",
        "and expects_trio(birth.expected)",
        "and True",
        ("launchers/test_read_ahead.py::test_a_spare_for_a_blocking_entry_runs_no_trio",),
    ),
    Mutant(
        "whoever listens to a quick stream spins",
        "_linux/_spinning.py",
        "if self._is_answer and self._is_quick and _HAS_CORES:",
        "if self._is_quick and _HAS_CORES:",
        ("core/test_spinning.py::test_who_only_listens_never_spins",),
    ),
    # ---- calls in a blocking entry
    Mutant(
        "a plain generator sends more items than its reader has room for",
        "child/_blocking_calls.py",
        "                call.credit -= 1\n",
        "",
        ("launchers/test_blocking_calls.py::test_a_generator_goes_no_further_than_its_credit",),
    ),
    Mutant(
        "a blocking entry forgets a cancel that comes before its call",
        "child/_blocking_calls.py",
        "                    self._early.add(call_id)",
        "                    pass",
        ("launchers/test_blocking_calls.py::test_a_cancel_may_come_before_its_call_or_after_its_end",),
    ),
    Mutant(
        "a blocking entry begins a call that was cancelled while it waited",
        "child/_blocking_calls.py",
        "        if self._has_served:  #",
        "        if False:  #",
        ("launchers/test_blocking_calls.py::test_a_call_that_is_cancelled_while_it_waits_for_another_is_never_begun",),
    ),
    Mutant(
        "a cancelled generator is left to the garbage collector",
        "child/_blocking_calls.py",
        "            generator.close()",
        "            pass",
        ("launchers/test_blocking_calls.py::test_a_generator_that_fails_in_its_clean_up_ends_by_one_failure",),
    ),
    Mutant(
        "a blocking entry serves a call inside the handler of another",
        "child/_blocking_controls.py",
        "return not (self.is_at_work or self._is_calling or self._is_ending or self.is_over)",
        "return not (self._is_ending or self.is_over)",
        ("launchers/test_blocking_calls.py::test_calls_are_served_in_order_and_one_at_a_time",),
    ),
    Mutant(
        "a message handler runs inside the handler of a call",
        "child/_blocking_calls.py",
        "        self._controls.is_at_work = True",
        "        self._controls.is_at_work = False",
        ("launchers/test_blocking_calls.py::test_messages_for_a_handler_wait_until_a_call_has_ended",),
    ),
    Mutant(
        "a stop ends a blocking entry in the middle of a call",
        "child/_blocking_controls.py",
        "not self.is_told and not self.stop_handlers and not self._is_calling:",
        "not self.is_told and not self.stop_handlers:",
        ("launchers/test_blocking_calls.py::test_a_stop_lets_the_call_at_work_finish_and_begins_no_other",),
    ),
    Mutant(
        "a handler of a call that looks for a stop keeps the entry from ending",
        "child/_blocking_controls.py",
        "if not self.stop_handlers and not self._is_calling:  #",
        "if not self.stop_handlers:  #",
        ("launchers/test_blocking_calls.py::test_a_stop_lets_the_call_at_work_finish_and_begins_no_other",),
    ),
    Mutant(
        "the clean-up of a cancelled handler cannot send",
        "child/_blocking_call.py",
        "if (again or not self.has_raised) and self.is_cancelled:",
        "if self.is_cancelled:",
        ("launchers/test_blocking_calls.py::test_a_cancelled_handler_cleans_up_with_the_context",),
    ),
    Mutant(
        "a blocking handler is not told that its time is over",
        "child/_blocking_call.py",
        "        if left <= 0:\n            self.was_cancelled = True\n",
        "",
        ("launchers/test_blocking_calls.py::test_a_handler_that_looks_sees_a_cancel_without_waiting",),
    ),
    Mutant(
        "SystemExit in the handler of a call goes to the caller",
        "child/_blocking_calls.py",
        "        except SystemExit:\n            raise\n",
        "",
        ("launchers/test_blocking_calls.py::test_a_handler_may_end_the_entry",),
    ),
    Mutant(
        "a cancelled call is told to the handlers of a stop",
        "child/_blocking_controls.py",
        "call, self.call = self.call, None",
        "call = self.call",
        (
            "launchers/test_blocking_calls.py::test_an_on_stop_handler_runs_inside_a_call_and_is_not_told_of_its_cancellation",
        ),
    ),
    Mutant(
        "quick calls and messages hold up each other in a blocking entry",
        "child/_blocking_controls.py",
        "if self._spins < MOST_SPINS:",
        "if self._spins:",
        ("launchers/test_blocking_calls.py::test_calls_that_come_without_a_pause_do_not_hold_up_messages",),
    ),
    # ---- calls of async entries
    Mutant(
        "the call that came last begins first",
        "child/_async_calls.py",
        "self._waiting.popitem(last=False)[1]",
        "self._waiting.popitem()[1]",
        ("collaboration/test_async_calls.py::test_plain_functions_overtake_no_call_before_them",),
    ),
    Mutant(
        "any number of handlers run at a time",
        "child/_async_calls.py",
        "and self._running < self._limit and",
        "and",
        ("collaboration/test_async_calls.py::test_calls_begin_in_order_and_so_many_run_at_a_time",),
    ),
    Mutant(
        "calls are read without bound while handlers are busy",
        "child/_async_calls.py",
        "while self._waiting_bytes > self._most_bytes:",
        "while False:",
        (
            "collaboration/test_async_calls.py::test_calls_wait_in_their_lane_while_those_that_wait_here_fill_their_room",
        ),
    ),
    Mutant(
        "a cancellation that comes before its call is forgotten",
        "child/_async_calls.py",
        "elif call_id > self._newest:",
        "elif False:",
        ("collaboration/test_async_calls.py::test_a_cancellation_may_come_before_its_call_and_for_one_that_waits",),
    ),
    Mutant(
        "a call that is cancelled while it waits is never ended",
        "child/_async_calls.py",
        "            self._serving.send_soon(encode_cancelled(call_id))\n            return",
        "            return",
        ("collaboration/test_async_calls.py::test_a_cancellation_may_come_before_its_call_and_for_one_that_waits",),
    ),
    Mutant(
        "a stop goes on beginning calls",
        "child/_async_calls.py",
        '        """Begin no further calls; those that run may finish."""\n        self._is_stopping = True',
        '        """Begin no further calls; those that run may finish."""',
        ("collaboration/test_async_calls.py::test_a_stop_lets_handlers_finish_begins_no_more_and_then_ends_the_entry",),
    ),
    Mutant(
        "a process that was killed begins the calls that wait",
        "child/_async_calls.py",
        "        await trio.lowlevel.checkpoint_if_cancelled()  # a run that was killed begins nothing\n",
        "",
        ("collaboration/test_async_calls.py::test_a_process_that_is_killed_begins_and_says_nothing_more",),
    ),
    Mutant(
        "what a plain function sets in its context stays",
        "child/_async_calls.py",
        "body = context.run(call.call_plainly)",
        "body = call.call_plainly()",
        ("collaboration/test_async_calls.py::test_what_a_handler_sets_in_its_context_is_gone_with_it",),
    ),
    Mutant(
        "an answer waits for a plain function that takes long",
        "child/_async_calls.py",
        "                self._serving.send_joined()",
        "                pass",
        ("collaboration/test_async_calls.py::test_an_answer_does_not_wait_for_a_function_that_may_take_long",),
    ),
    Mutant(
        "a generator runs ahead of its credit",
        "child/_async_call.py",
        "while self._credit < 1:",
        "while self._credit < 0:",
        (
            "collaboration/test_async_calls.py::test_a_stream_sends_items_while_it_has_credit_and_then_holds_up_its_generator",
        ),
    ),
    Mutant(
        "a generator that is given up is not closed",
        "child/_async_call.py",
        "                await generator.aclose()  # noqa",
        "                pass  # noqa",
        ("collaboration/test_async_calls.py::test_a_generator_is_closed_and_may_raise_in_its_clean_up",),
    ),
    Mutant(
        "the time for a call is not heeded",
        "child/_async_call.py",
        "trio.CancelScope(deadline=trio.current_time() + seconds)",
        "trio.CancelScope()",
        ("collaboration/test_async_calls.py::test_the_time_for_a_call_runs_from_its_arrival_and_cancels_it",),
    ),
    Mutant(
        "an exit in the handler of a call is an answer",
        "child/_async_call.py",
        "if _consists_of(error, SystemExit):",
        "if False:",
        ("collaboration/test_async_calls.py::test_a_system_exit_ends_the_entry_and_the_call_has_no_answer",),
    ),
    Mutant(
        "calls that the end of the entry cancels are told of",
        "child/_async_call.py",
        "return None if self.serving.is_over else encode_cancelled(self.call_id)",
        "return encode_cancelled(self.call_id)",
        ("collaboration/test_async_calls.py::test_the_end_of_the_entry_cancels_its_handlers_and_nobody_is_told",),
    ),
    Mutant(
        "a stop ends the entry under its running calls",
        "child/_async_controls.py",
        '            if not self.has_running_calls:\n                self._end_entry("stop")',
        '            self._end_entry("stop")',
        ("collaboration/test_async_calls.py::test_a_stop_lets_handlers_finish_begins_no_more_and_then_ends_the_entry",),
    ),
    Mutant(
        "an entry cleans up under its running calls",
        "child/_async_runtime.py",
        "        await controls.wait_calls()\n",
        "",
        ("collaboration/test_async_calls.py::test_an_entry_that_was_told_of_a_stop_ends_after_its_handlers",),
    ),
    Mutant(
        "a process that takes calls does not beat by itself",
        "child/_async_controls.py",
        "        self.beat_while_running()\n        if self._is_ready and",
        "        if self._is_ready and",
        ("collaboration/test_async_calls.py::test_a_process_that_takes_calls_beats_by_itself_from_ready_on",),
    ),
    Mutant(
        "a handler of calls does not keep the entry alive",
        "child/_async_controls.py",
        "or (self.calls is not None and bool(self.calls.handlers))",
        "or False",
        ("collaboration/test_async_calls.py::test_a_host_of_protocol_1_hears_of_no_handler_and_the_process_lives_on",),
    ),
    Mutant(
        "another number of calls at a time is not told of",
        "child/_async_calls.py",
        "if has_changed and self.are_taken:",
        "if False:",
        ("collaboration/test_async_calls.py::test_the_host_is_told_how_many_run_at_a_time_and_whenever_that_changes",),
    ),
    Mutant(
        "a sooner deadline does not move the timer of calls",
        "_supervision/_call_timeouts.py",
        "        elif deadline < self._nap.deadline:\n            self._nap.deadline = deadline\n",
        "",
        ("collaboration/test_calls_of_a_host.py::test_deadlines_of_calls_that_have_ended_do_not_pile_up",),
    ),
    Mutant(
        "an answer that comes with the end of the time is lost",
        "_supervision/_calls.py",
        "            await self._wait(call)\n        outcome = call.outcome\n",
        "            await self._wait(call)\n        outcome = None if call.is_late else call.outcome\n",
        ("collaboration/test_calls_of_a_host.py::test_an_answer_that_comes_with_the_end_of_the_time_counts",),
    ),
    Mutant(
        "a call that waits behind others counts as begun",
        "_supervision/_calls.py",
        "since, is_waiting=call.call_id > self._newest_begun)",
        "since)",
        (
            "collaboration/test_calls_of_a_host.py::test_a_call_that_was_cancelled_while_it_waited_behind_others_ends_no_process",
        ),
    ),
    Mutant(
        "a call that has waited behind others is never judged",
        "_supervision/_calls.py",
        "if overruns is not None and overruns.has_waiting:",
        "if False:",
        (
            "collaboration/test_calls_of_a_host.py::test_the_grace_of_a_call_that_waited_begins_when_it_could_have_begun",
        ),
    ),
    Mutant(
        "a call that has begun counts as waiting when fewer are served at a time",
        "_supervision/_calls.py",
        "max(newest, self._newest_begun)",
        "newest",
        ("collaboration/test_calls_of_a_host.py::test_a_call_that_has_begun_stays_so_when_fewer_are_served_at_a_time",),
    ),
    Mutant(
        "a handler that is registered after ready is not told of",
        "child/_async_controls.py",
        "            self._send_control(encode_takes_calls(self.calls.concurrency))",
        "            pass",
        ("collaboration/test_async_calls.py::test_a_handler_that_is_registered_after_ready_is_told_of_once",),
    ),
    Mutant(
        "a name can be registered twice",
        "child/_calls.py",
        "if method in self._handlers:",
        "if False:",
        ("core/test_calls_of_a_child.py::test_what_is_no_name_and_no_function_is_refused_and_changes_nothing",),
    ),
    Mutant(
        "a failure may be longer than a frame",
        "child/_exit_frames.py",
        "    return name, text, cut_middle(traceback, room) if",
        "    return name, text, traceback if",
        ("core/test_calls_of_a_child.py::test_the_names_of_handlers_and_failures_fit_into_any_bounds",),
    ),
    # ---- pools
    Mutant(
        "a pool repeats a call whose process was lost",
        "_pools/_pool.py",
        "                self._crew.lost(member)\n                if error.handed_over:",
        "                self._crew.lost(member)\n                if False:",
        ("contract/test_pools.py::test_a_call_whose_process_is_lost_is_raised_and_not_repeated",),
    ),
    Mutant(
        "a pool lends a process whose handler goes on",
        "_pools/_crew.py",
        "            member.turn(Phase.SETTLING)",
        "            self._offer(member)",
        ("contract/test_pools.py::test_a_process_is_idle_when_the_handler_of_a_cancelled_call_has_given_up",),
    ),
    Mutant(
        "the wait for a process does not count",
        "_pools/_pool.py",
        "await member.handle.call(method, payload, timeout=_left(deadline), overrun=overrun)",
        "await member.handle.call(method, payload, timeout=timeout, overrun=overrun)",
        ("contract/test_pools.py::test_what_is_left_of_the_time_is_what_the_handler_has",),
    ),
    Mutant(
        "no answer ends a row of failures",
        "_pools/_crew.py",
        "        self._record.answered()\n",
        "",
        ("contract/test_pools.py::test_an_answer_ends_the_row_of_failures",),
    ),
    Mutant(
        "a pool starts anew without a delay",
        "_pools/_track_record.py",
        "            self.starts_at = starts_at\n",
        "            pass\n",
        ("contract/test_pools.py::test_a_pool_whose_entry_never_starts_gives_up_with_the_post_mortem",),
    ),
    Mutant(
        "an overrun is a failure of the pool",
        "_pools/_crew.py",
        "is ProcessState.TIMED_OUT and member.phase is Phase.SETTLING:",
        "is ProcessState.TIMED_OUT and False:",
        ("contract/test_pools.py::test_a_hung_call_times_out_and_its_process_is_replaced",),
    ),
    Mutant(
        "a process has any number of calls",
        "_pools/_member.py",
        "self.calls >= settings.max_calls or ",
        "",
        ("contract/test_pools.py::test_a_process_that_has_had_its_calls_is_replaced_and_no_call_is_lost",),
    ),
    Mutant(
        "a cancelled caller stays in line",
        "_pools/_waiters.py",
        "        self.line.leave(waiter)\n",
        "",
        ("contract/test_pools.py::test_a_call_that_is_cancelled_while_it_waits_leaves_the_queue",),
    ),
    Mutant(
        "a map gives answers as they come",
        "_pools/_pool_map.py",
        "place = self._taken if self._ordered else",
        "place = self._taken if False else",
        ("contract/test_pools.py::test_the_answers_of_a_map_come_in_the_order_of_the_payloads",),
    ),
    # ---- calls, at the host's side
    Mutant(
        "a call that has been given up is forgotten, and its late answer breaks the protocol",
        "_supervision/_calls.py",
        "        call.is_given_up = True\n",
        "        call.is_given_up = True\n        del self._pending[call.call_id]\n",
        ("collaboration/test_calls_of_a_host.py::test_a_timeout_travels_as_remaining_time_and_ends_the_call_exactly",),
    ),
    Mutant(
        "a caller that is cancelled does not tell the process",
        "_supervision/_calls.py",
        "        except BaseException:\n            self.give_up(call)\n            raise\n",
        "        except ZeroDivisionError:\n            raise\n",
        ("collaboration/test_calls_of_a_host.py::test_cancelling_the_caller_cancels_the_handler_and_goes_on_at_once",),
    ),
    Mutant(
        "a second answer is ignored",
        "_supervision/_calls.py",
        "            if call is None:\n                raise ",
        "            if call is None:\n                continue\n                raise ",
        ("collaboration/test_calls_of_a_host.py::test_a_process_that_breaks_the_rules_of_calls_is_ended_as_failed",),
    ),
    Mutant(
        "calls are lost before what their process has left behind is taken in",
        "_supervision/_supervisor.py",
        "            process.take_in_calls()\n            process.feed(Input.EXIT",
        "            process.feed(Input.EXIT",
        (
            "collaboration/test_calls_of_a_host.py::test_an_answer_that_was_left_behind_counts_and_a_loss_follows_the_end",
        ),
    ),
    Mutant(
        "a call that never left counts as handed over",
        "_supervision/_calls.py",
        "handed_over=call.call_id <= last_sent",
        "handed_over=True",
        ("collaboration/test_calls_of_a_host.py::test_calls_in_the_outbox_at_the_end_were_not_handed_over",),
    ),
    Mutant(
        "who waits for room is not refused by a stop",
        "_supervision/_calls.py",
        "            self._outbox.try_again()\n",
        "            pass\n",
        (
            "collaboration/test_calls_of_a_host.py::test_calls_that_wait_for_room_are_refused_once_the_process_is_stopping",
        ),
    ),
    Mutant(
        "only a call's own timeout travels",
        "_supervision/_calls.py",
        "left = min(call.deadline, trio.current_effective_deadline()) - trio.current_time()",
        "left = call.timeout",
        ("collaboration/test_calls_of_a_host.py::test_the_earlier_of_timeout_and_scopes_counts",),
    ),
    Mutant(
        "an overrun kills though the call has ended",
        "_supervision/_calls.py",
        "if overruns is not None and overruns.end(call.call_id):",
        "if overruns is not None and call.call_id < 0:",
        ("collaboration/test_calls_of_a_host.py::test_a_handler_that_gives_up_within_the_grace_is_left_alone",),
    ),
    Mutant(
        "a late host kills before it has taken in what came",
        "_supervision/_supervisor.py",
        "        process.take_in_calls()\n        process.record.look_at_heartbeat()",
        "        process.record.look_at_heartbeat()",
        ("collaboration/test_calls_of_a_host.py::test_an_answer_that_was_taken_in_by_nobody_saves_its_process",),
    ),
    Mutant(
        "a stream gives credit though nobody has read",
        "_messages/_item_channel.py",
        "self._credit -= 1\n",
        "self._give_credit(1)\n",
        ("collaboration/test_streams_of_a_host.py::test_a_reader_that_does_not_read_gives_no_credit",),
    ),
    Mutant(
        "items before an error are lost",
        "_messages/_item_channel.py",
        "        self.is_over = True\n",
        "        self.is_over = True\n        self._items.clear()\n",
        (
            "collaboration/test_streams_of_a_host.py::test_an_error_of_the_generator_is_raised_after_the_items_before_it",
        ),
    ),
    Mutant(
        "leaving the block of a stream does not cancel it",
        "_messages/_item_channel.py",
        "            self._give_up()\n        self._wake()",
        "            pass\n        self._wake()",
        ("collaboration/test_streams_of_a_host.py::test_leaving_the_block_cancels_the_stream",),
    ),
    Mutant(
        "a stream that nobody reads may overrun",
        "_supervision/_calls.py",
        "if stream.kills and stream.deadline < math.inf:",
        "if stream.kills and stream.deadline < 0:",
        (
            "collaboration/test_streams_of_a_host.py::test_a_generator_that_goes_on_has_its_process_killed_also_if_nobody_reads",
        ),
    ),
    Mutant(
        "the last overrun counts, not the first",
        "_supervision/_overruns.py",
        "min([deadline for deadline, _ in self._watched.values()], default=math.inf)",
        "max([deadline for deadline, _ in self._watched.values()], default=math.inf)",
        ("core/test_overruns.py::test_the_earliest_cancelled_call_counts_and_its_end_leaves_the_next",),
    ),
)
