"""Who may do what at an acceptor: the access policy, which is data, and what it says to a request.

A policy is immutable and judged as it is, so that replacing one is one assignment; beside it stands only what rules
count. Refusals are those of PS3.8 Table 9-21 and PS3.7 annex C. Knows no event loop, clock or connection: ``now`` is an
argument.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .command import MESSAGES, CommandField, Status
from .errors import AccessPolicyError, LocalProtocolError
from .pdu import AssociateRJ, check_ae_title
from .uids import (
    CONTEXTS_FOR,
    UNIFIED_PROCEDURE_STEP_PULL,
    UNIFIED_PROCEDURE_STEP_PUSH,
    UNIFIED_PROCEDURE_STEP_WATCH,
    uids_of,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["AccessPolicy", "Admission", "Certificate", "Limits", "Peer", "Refusal", "Rule"]


class Certificate(Protocol):
    """A peer's certificate as rules see it; it has been verified."""

    @property
    def sha256(self) -> str:
        """Fingerprint, lower-case hexadecimal digits."""
        ...

    @property
    def common_names(self) -> tuple[str, ...]:
        """Of the subject."""
        ...

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Subject alternative names of this kind."""
        ...

    @property
    def ip_addresses(self) -> tuple[str, ...]:
        """The same."""
        ...

    @property
    def uris(self) -> tuple[str, ...]:
        """The same."""
        ...

    @property
    def emails(self) -> tuple[str, ...]:
        """The same."""
        ...


class Peer(Protocol):
    """Who asks for an association, as rules see it: the association to be."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    """IP address."""
    user: str
    """Name of the user, verified; empty if there is none."""

    @property
    def peer_certificate(self) -> Certificate | None:
        """None without a verified one, and where it cannot be read."""
        ...

    @property
    def peer_certificate_sha256(self) -> str:
        """Fingerprint of a verified one, of one that cannot be read too; empty without one."""
        ...


class Refusal(NamedTuple):
    """An association that is not to be."""

    rejection: AssociateRJ
    why: str
    """In words, for this side; the peer is told no more than the numbers."""


# Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a policy: whom it is for, what they may do, and how much of it. What is left out is any, or no limit.

    An asterisk in a pattern stands for any number of characters. Where several may be given, a single string will do.
    Raises AccessPolicyError, which names the rule and the key, for what has no meaning.
    """

    name: str
    """Its own, in messages and for what it counts."""
    allow: bool = True
    """False turns away those whom it is for."""
    calling_ae_titles: tuple[str, ...] = ()
    """Patterns of AE titles; case matters."""
    called_ae_titles: tuple[str, ...] = ()
    """The same."""
    networks: tuple[str, ...] = ()
    """IP addresses, and networks in CIDR notation."""
    certificates: tuple[str, ...] = ()
    """``sha256:`` and a fingerprint; ``cn:`` and a pattern of the subject's common name; ``dns:``, ``ip:``, ``uri:`` or
    ``email:`` and a pattern of a subject alternative name, an address for ``ip:``. No peer without a verified
    certificate fits. Of one that cannot be read, the fingerprint is known, and names are taken to fit where the rule
    turns away, and not to fit where it allows. So is one of several common names that fits."""
    users: tuple[str, ...] = ()
    """Patterns of the names of verified users. No peer without one fits."""
    services: tuple[str, ...] = ()
    """DIMSE services that the peer may invoke: ``C-STORE``, ``N-GET``, ..."""
    sop_classes: tuple[str, ...] = ()
    """Abstract syntaxes of presentation contexts: UIDs or patterns of them, keywords and names of PS3.6, names of
    service classes."""
    max_associations: int | None = None
    """At once; more are refused as transient (local limit exceeded)."""
    associations_per_second: float | None = None
    """More are refused as transient (temporary congestion). One second's worth, at least one, may come at once."""
    requests_per_second: float | None = None
    """Beyond it associations are read more slowly. One second's worth, at least one, may come at once."""
    _fits: Mapping[str, Callable[[Peer], bool | None]] = field(init=False, repr=False, compare=False)
    """What has to be so for the rule to fit, by key, None where nobody can tell; cheap things first."""
    _refused: Mapping[int, Status] = field(init=False, repr=False, compare=False)
    """What answers the services that are not allowed, by command field."""
    _sop_classes: _Patterns | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise AccessPolicyError(f"rule {self.name!r}: name: a text is needed")
        if not isinstance(self.allow, bool):
            raise AccessPolicyError(f"rule {self.name!r}: allow: {self.allow!r} is neither true nor false")
        compiled = {key: self._compiled(key, compile_) for key, compile_ in _COMPILED.items()}
        refused = compiled.pop("services")
        self._set("_sop_classes", compiled.pop("sop_classes"))
        self._set("_refused", {} if refused is None else refused)
        self._set("_fits", {key: fits for key, fits in compiled.items() if fits is not None})
        for key, kind in _LIMITS.items():
            self._check_limit(key, kind)

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    def _compiled(self, key: str, compile_: Callable[[Iterable[str]], Any]) -> Any:
        """What is made of the texts of a key, None if there are none."""
        given = getattr(self, key)
        texts = (given,) if isinstance(given, str) else given
        if not isinstance(texts, (tuple, list)) or not all(isinstance(text, str) and text for text in texts):
            raise AccessPolicyError(f"rule {self.name!r}: {key}: {given!r} is no text, and no list of texts")
        self._set(key, tuple(texts))
        try:
            return compile_(texts) if texts else None
        except (ValueError, LocalProtocolError) as error:
            raise AccessPolicyError(f"rule {self.name!r}: {key}: {error}") from None

    def _check_limit(self, key: str, kind: type[float]) -> None:
        limit = getattr(self, key)
        if limit is None:
            return
        if not self.allow:
            raise AccessPolicyError(f"rule {self.name!r}: {key}: a rule that turns away has no limits")
        name, least = _NUMBERS[kind]
        if isinstance(limit, bool) or not isinstance(limit, (int, kind)) or not least <= limit < math.inf:
            raise AccessPolicyError(f"rule {self.name!r}: {key}: {limit!r} is no {name} of at least {least}")

    def misfit(self, peer: Peer, *, user_known: bool = True) -> str:
        """The first key by which the rule is not for a peer; empty when it is for it.

        While the user is not known yet, a rule that allows fits any, and one that turns away certain users fits none.
        Where nobody can tell, one that allows does not fit, and one that turns away does.
        """
        for key, fits in self._fits.items():
            if key == "users" and not user_known:
                if not self.allow:
                    return key
            elif (fit := fits(peer)) is False or (fit is None and self.allow):
                return key
        return ""

    def permits(self, abstract_syntax: str) -> bool:
        """Whether presentation contexts for it may be accepted."""
        return self._sop_classes is None or self._sop_classes.match(abstract_syntax)

    def refusal(self, command_field: int, sop_class: str = "", action: int | None = None) -> Status | None:
        """The status that answers a request for a service that is not allowed; None for one that is.

        ``sop_class`` is what a request names, ``action`` the Action Type ID of an N-ACTION.
        """
        if (refused := self._refused.get(command_field)) is not None:
            return refused
        key = (command_field, action if command_field == CommandField.N_ACTION_RQ else None)
        belongs_to = _UPS_SERVICES.get(key) if sop_class in _UPS else None
        return None if belongs_to is None or self.permits(belongs_to) else Status.NOT_AUTHORIZED


class _Patterns(NamedTuple):
    """Texts to compare with, some with asterisks."""

    exact: frozenset[str]
    parts: tuple[tuple[str, ...], ...]
    """What stands before, between and after the asterisks of a pattern."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> _Patterns:
        split = [tuple(text.split("*")) for text in texts]
        return cls(frozenset(each[0] for each in split if len(each) == 1), tuple(each for each in split if each[1:]))

    def match(self, text: str) -> bool:
        return text in self.exact or any(_consists(text, parts) for parts in self.parts)


def _consists(text: str, parts: tuple[str, ...]) -> bool:
    """Whether a text has these parts in this order, anything between them; looks at each character once."""
    first, *middle, last = parts
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _fits_text(peer: Peer, *, attribute: str, patterns: _Patterns) -> bool:
    text = getattr(peer, attribute)
    return bool(text) and patterns.match(text)


def _texts(attribute: str, check: Callable[[str], str], texts: Iterable[str]) -> Callable[[Peer], bool]:
    return partial(_fits_text, attribute=attribute, patterns=_Patterns.of([check(text) for text in texts]))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _address(text: str) -> _Address:
    """An IP address; an IPv4 one that was mapped to IPv6 is what it was."""
    address = ipaddress.ip_address(text)
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _fits_network(peer: Peer, *, networks: tuple[_Network, ...]) -> bool:
    try:
        address = _address(peer.peer_address.partition("%")[0])  # %: the interface of a link-local one
    except ValueError:
        return False
    return any(address in network for network in networks)


def _networks(texts: Iterable[str]) -> Callable[[Peer], bool]:
    return partial(_fits_network, networks=tuple(map(_network, texts)))


def _network(text: str) -> _Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"{text!r} are IPv4 addresses, which are taken for what they are: write them as such")
    return network


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""Into which IPv4 addresses are mapped where IPv6 carries them."""


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(f"{text!r} is no SHA-256 fingerprint, which has 64 hexadecimal digits")
    return digits


_CERTIFICATES: dict[str, tuple[Callable[[Certificate], Iterable[str]], Callable[[str], str]]] = {
    "sha256": (lambda certificate: (certificate.sha256,), _fingerprint),
    "cn": (lambda certificate: certificate.common_names, str),
    "dns": (lambda certificate: map(str.lower, certificate.dns_names), str.lower),
    "ip": (lambda certificate: certificate.ip_addresses, lambda text: str(ipaddress.ip_address(text))),
    "uri": (lambda certificate: certificate.uris, str),
    "email": (lambda certificate: map(str.lower, certificate.emails), str.lower),
}
"""What stands before the colon; what to look at in a certificate; how a pattern is written to be compared with it."""


def _fits_certificate(peer: Peer, *, patterns: Mapping[str, _Patterns]) -> bool | None:
    """None where that depends on names in a certificate that cannot be read, or on one of several common names."""
    if not (fingerprint := peer.peer_certificate_sha256):
        return False
    if (certificate := peer.peer_certificate) is None:
        names = dict(patterns)
        known = names.pop("sha256", None)
        return (known is not None and known.match(fingerprint)) or (None if names else False)
    fitting = {
        kind
        for kind, each in patterns.items()
        for text in _CERTIFICATES[kind][0](certificate)
        if text and each.match(text)
    }
    return None if fitting == {"cn"} and len(certificate.common_names) > 1 else bool(fitting)


def _certificates(texts: Iterable[str]) -> Callable[[Peer], bool | None]:
    by_kind: dict[str, list[str]] = {}
    for text in texts:
        kind, colon, pattern = text.partition(":")
        if not (colon and pattern and kind in _CERTIFICATES):
            raise ValueError(f"{text!r} does not begin with one of {', '.join(f'{each}:' for each in _CERTIFICATES)}")
        by_kind.setdefault(kind, []).append(_CERTIFICATES[kind][1](pattern))
    return partial(_fits_certificate, patterns={kind: _Patterns.of(each) for kind, each in by_kind.items()})


_SERVICES = {
    message.name.removesuffix("-RQ"): message.field
    for message in MESSAGES.values()
    if not message.is_response and message.field is not CommandField.C_CANCEL_RQ
}
_REFUSED = dict.fromkeys(_SERVICES.values(), Status.NOT_AUTHORIZED) | {
    # PS3.7 9.1.2, 9.1.5: "not authorized" is none of their statuses, of what is left this is the refusal.
    CommandField.C_FIND_RQ: Status(Status.SOP_CLASS_NOT_SUPPORTED, "not authorized"),
    CommandField.C_ECHO_RQ: Status(Status.SOP_CLASS_NOT_SUPPORTED, "not authorized"),
    CommandField.N_EVENT_REPORT_RQ: Status(Status.PROCESSING_FAILURE, "not authorized"),  # PS3.7 10.1.1 has no refusal
}
"""The status for a service that is not allowed, by command field."""


_UPS = (UNIFIED_PROCEDURE_STEP_PUSH, *CONTEXTS_FOR[UNIFIED_PROCEDURE_STEP_PUSH])
_UPS_SERVICES: dict[tuple[int, int | None], str] = {
    (CommandField.N_CREATE_RQ, None): UNIFIED_PROCEDURE_STEP_PUSH,
    (CommandField.N_SET_RQ, None): UNIFIED_PROCEDURE_STEP_PULL,
    (CommandField.N_ACTION_RQ, 1): UNIFIED_PROCEDURE_STEP_PULL,
    **{(CommandField.N_ACTION_RQ, action): UNIFIED_PROCEDURE_STEP_WATCH for action in (3, 4, 5)},
}
"""The SOP class to which a service belongs alone, by Action Type ID too (PS3.4 CC.2). Requests name UPS Push, on a
context for whichever of the classes: neither says what is asked for."""


def _services(texts: Iterable[str]) -> dict[int, Status]:
    allowed = set()
    for text in texts:
        if (name := text.upper().replace("_", "-")) not in _SERVICES:
            raise ValueError(f"there is no DIMSE service {text!r}; there are {', '.join(_SERVICES)}")
        allowed.add(_SERVICES[name])
    return {command: status for command, status in _REFUSED.items() if command not in allowed}


def _sop_classes(texts: Iterable[str]) -> _Patterns:
    return _Patterns.of(uid for text in texts for uid in (_uid_pattern(text) if "*" in text else uids_of(text)))


def _uid_pattern(text: str) -> tuple[str]:
    if not re.fullmatch(r"[0-9.*]+", text):
        raise ValueError(f"{text!r}: an asterisk may only stand in a UID")
    return (text,)


_COMPILED: dict[str, Callable[[Iterable[str]], Any]] = {
    "calling_ae_titles": partial(_texts, "calling_ae_title", check_ae_title),
    "called_ae_titles": partial(_texts, "called_ae_title", check_ae_title),
    "networks": _networks,
    "users": partial(_texts, "user", str),
    "certificates": _certificates,
    "services": _services,
    "sop_classes": _sop_classes,
}
"""What is made of the texts of each key."""

_LIMITS: dict[str, type[float]] = {
    "max_associations": int,
    "associations_per_second": float,
    "requests_per_second": float,
}
_NUMBERS: dict[type[float], tuple[str, float]] = {int: ("integer", 1), float: ("number", 0.001)}
"""What a limit is called, and the least that it can be."""
_KEYS = tuple(each.name for each in fields(Rule) if each.init)

_EVERYBODY = Rule(name="default")
"""By which those are admitted who fit no rule, where that is the default."""


# The policy


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Rules in order: the first that fits a peer decides, with all that it says. Without one, ``default`` does.

    So the first rule that fits grants what it grants, and no later one adds to it. Raises AccessPolicyError for two
    rules of one name.
    """

    rules: tuple[Rule, ...] = ()
    default: Literal["deny", "allow"] = "deny"
    file: Path | None = field(default=None, compare=False)
    """From which it was read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if self.default not in ("deny", "allow"):
            raise AccessPolicyError(f"default: {self.default!r} is neither 'deny' nor 'allow'")
        names = [_EVERYBODY.name, *(rule.name for rule in self.rules)]
        if twice := next((name for name, count in Counter(names).items() if count > 1), ""):
            raise AccessPolicyError(f"rule {twice!r}: name: another one has it, and counts under it")

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> AccessPolicy:
        """Read a policy: ``default``, and an array ``rules`` of tables with the fields of :class:`Rule` as keys.

        Raises AccessPolicyError, which names file, rule and key, for what cannot be read or has no meaning.
        """
        import tomllib  # noqa: PLC0415 - only where a policy is a file

        file = Path(path)
        try:
            with file.open("rb") as stream:
                policy = cls.from_dict(tomllib.load(stream))
        except OSError as error:
            raise AccessPolicyError(f"{file}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AccessPolicyError) as error:
            raise AccessPolicyError(f"{file}: {error}") from None
        return cls(policy.rules, policy.default, file)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> AccessPolicy:
        """A policy from what a TOML file of it would give. Raises AccessPolicyError as :meth:`from_toml`."""
        _check_keys(mapping, ("default", "rules"), "")
        rules = mapping.get("rules", ())
        if not isinstance(rules, (list, tuple)) or not all(isinstance(each, dict) for each in rules):
            raise AccessPolicyError("rules: an array of tables is wanted, each of which begins with [[rules]]")
        return cls(tuple(_rule(number, each) for number, each in enumerate(rules, 1)), mapping.get("default", "deny"))

    @property
    def files(self) -> tuple[Path, ...]:
        """Of what it was made; when one has changed, :meth:`remade` may differ."""
        return () if self.file is None else (self.file,)

    def remade(self) -> AccessPolicy:
        """The policy as its file has it now; itself if it has none. Raises AccessPolicyError."""
        return self if self.file is None else self.from_toml(self.file)

    def judge(self, peer: Peer, *, user_known: bool = True) -> Rule | Refusal:
        """The rule by which a peer is admitted, or why it is not.

        Before its user is known: a rule if there is a user with whom it would be admitted.
        """
        for rule in self.rules:
            if not rule.misfit(peer, user_known=user_known):
                if rule.allow:
                    return rule
                return self._rejection(peer)._replace(why=f"rule {rule.name!r} turns it away")
        return _EVERYBODY if self.default == "allow" else self._rejection(peer)

    def _rejection(self, peer: Peer) -> Refusal:
        """What is said to who is not admitted (PS3.8 Table 9-21); which of address, certificate and user, is not."""
        misfits = {rule.name: rule.misfit(peer) for rule in self.rules if rule.allow}
        if self.default == "allow":
            misfits[_EVERYBODY.name] = ""
        calling = {name: misfit for name, misfit in misfits.items() if misfit != "calling_ae_titles"}
        called = {name: misfit for name, misfit in calling.items() if misfit != "called_ae_titles"}
        if not calling:
            return Refusal(AssociateRJ(1, 1, 3), f"no rule is for the calling AE title {peer.calling_ae_title!r}")
        if not called:
            why = f"no rule lets the AE {peer.calling_ae_title!r} call {peer.called_ae_title!r}"
            return Refusal(AssociateRJ(1, 1, 7), why)
        near = ", ".join(f"{name!r} by its {misfit}" for name, misfit in called.items())
        return Refusal(AssociateRJ(1, 1, 1), f"the rules for these AE titles do not fit: {near}")


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    if unknown := next((key for key in table if key not in known), ""):
        raise AccessPolicyError(f"{where}{unknown}: there is no such key; there are {', '.join(known)}")


def _rule(number: int, table: Mapping[str, Any]) -> Rule:
    where = f"rule {table.get('name', number)!r}: "
    _check_keys(table, _KEYS, where)
    if "name" not in table:
        raise AccessPolicyError(f"{where}name: every rule has to have one")
    if empty := next((key for key, value in table.items() if value in ([], ())), ""):
        raise AccessPolicyError(f"{where}{empty}: nothing is listed; leave the key out if anything will do")
    return Rule(**table)


# What rules count


class _Pace:
    """A token bucket that holds one second's worth, at least one token, as the time at which it will be full."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at = -math.inf

    def wait(self, rate: float, now: float) -> float:
        """Seconds until there is a token."""
        return max(0.0, self._full_at - now - (max(1.0, rate) - 1) / rate)

    def take(self, rate: float, now: float) -> None:
        """Take a token, also one that is not there yet."""
        self._full_at = max(self._full_at, now) + 1 / rate


class _Usage:
    """What is used of a rule's limits."""

    __slots__ = ("association_pace", "associations", "request_pace")

    def __init__(self) -> None:
        self.associations = 0
        self.association_pace = _Pace()
        self.request_pace = _Pace()


class Limits:
    """What is used of the limits of rules: by their names, so that it goes on when a policy is replaced by another.

    Of several processes each grants its share, numbers rounded up: in all that may be more by less than one for each,
    and who meets a process whose share is used up is refused though another's is not.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self._usages: dict[str, _Usage] = {}

    def admit(self, rule: Rule, now: float) -> Admission | Refusal:
        """Whether there is room for another association under a rule, at ``now``, a time in seconds."""
        usage = self._usages.setdefault(rule.name, _Usage())
        most, rate = rule.max_associations, rule.associations_per_second
        if most is not None and usage.associations >= -(-most // self.processes):
            return Refusal(AssociateRJ(2, 3, 2), f"rule {rule.name!r} has {usage.associations} associations already")
        if rate is not None:
            rate /= self.processes
            if usage.association_pace.wait(rate, now):
                return Refusal(AssociateRJ(2, 3, 1), f"rule {rule.name!r} has more than {rate:g} associations a second")
            usage.association_pace.take(rate, now)
        return Admission(rule, usage, self.processes)


class Admission:
    """What an association may do for as long as it lives: the rule by which it was admitted, and what that counts."""

    __slots__ = ("_rate", "_usage", "rule")

    def __init__(self, rule: Rule, usage: _Usage, processes: int) -> None:
        self.rule = rule
        self._usage = usage
        self._rate = rule.requests_per_second and rule.requests_per_second / processes

    def enter(self) -> None:
        """The association is established."""
        self._usage.associations += 1

    def leave(self) -> None:
        """It is over."""
        self._usage.associations -= 1

    def delay(self, now: float) -> float:
        """Count a request, which is not refused; returns the seconds for which no more are wanted."""
        if self._rate is None:
            return 0.0
        self._usage.request_pace.take(self._rate, now)
        return self._usage.request_pace.wait(self._rate, now)
