"""The judge: every combination of what the probes may say, against the rule of DESIGN.md, section 4."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from watcher.owner.testimony import Answer, Evidence, Judgement, Verdict, judge

PROBES = ("boot", "locks", "pid_file", "container", "command", "heartbeat")


def said(answers: tuple[Answer | None, ...]) -> tuple[Evidence, ...]:
    """What each probe said; None: it was not asked."""
    return tuple(
        Evidence(probe, answer, f"{probe} says {answer}")
        for probe, answer in zip(PROBES, answers, strict=True)
        if answer is not None
    )


def by_the_rule(answers: tuple[Answer | None, ...]) -> Verdict:
    """Any ALIVE means alive; else any UNKNOWN means unknown; else any EXITED means exited; else unknown. A heartbeat is
    heard only where no container, pid file or command has said EXITED."""
    by_probe = dict(zip(PROBES, answers, strict=True))
    if Answer.EXITED in (by_probe["container"], by_probe["pid_file"], by_probe["command"]):
        del by_probe["heartbeat"]
    heard = list(by_probe.values())
    if heard.count(Answer.ALIVE):
        return Verdict.ALIVE
    if heard.count(Answer.UNKNOWN) or not heard.count(Answer.EXITED):
        return Verdict.UNKNOWN
    return Verdict.EXITED


def test_every_combination_is_judged_by_the_rule() -> None:
    for answers in product((None, *Answer), repeat=len(PROBES)):
        assert judge(said(answers)).verdict is by_the_rule(answers), answers


def test_nobody_asked_is_unknown() -> None:
    judgement = judge(())
    assert judgement.verdict is Verdict.UNKNOWN
    assert judgement.reason == "no probe can tell"


combinations = st.tuples(*[st.none() | st.sampled_from(Answer) for _ in PROBES])


@given(combinations, st.permutations(range(len(PROBES))))
def test_the_order_of_the_probes_does_not_matter(answers: tuple[Answer | None, ...], order: list[int]) -> None:
    evidence = {PROBES.index(each.probe): each for each in said(answers)}
    shuffled = tuple(evidence[number] for number in order if number in evidence)
    assert judge(shuffled).verdict is judge(said(answers)).verdict


@given(combinations, st.sampled_from(PROBES))
def test_one_more_that_says_alive_never_leads_to_a_recovery(answers: tuple[Answer | None, ...], probe: str) -> None:
    """But for a heartbeat, which a killed agent has left a moment ago."""
    if probe != "heartbeat":
        assert judge((*said(answers), Evidence(probe, Answer.ALIVE, "it runs"))).verdict is Verdict.ALIVE


@given(combinations, st.sampled_from(PROBES[:-1]))
def test_one_more_that_does_not_know_never_leads_to_a_recovery(answers: tuple[Answer | None, ...], probe: str) -> None:
    assert judge((*said(answers), Evidence(probe, Answer.UNKNOWN, "no answer"))).verdict is not Verdict.EXITED


def test_the_reason_is_what_the_deciding_probes_say() -> None:
    judgement = judge(said((Answer.SILENT, Answer.EXITED, Answer.ALIVE, None, None, Answer.ALIVE)))
    assert judgement.reason == "pid_file says alive; heartbeat says alive"


def test_an_owner_as_json_is_as_the_interface_promises() -> None:
    judgement = judge((Evidence("locks", Answer.EXITED, "nobody", None), Evidence("boot", Answer.SILENT, "young", 7)))
    assert judgement == Judgement(Verdict.EXITED, judgement.evidence)
    assert judgement.as_json() == {
        "verdict": "exited",
        "evidence": [
            {"probe": "locks", "verdict": "exited", "detail": "nobody"},
            {"probe": "boot", "verdict": "silent", "detail": "young"},
        ],
    }
