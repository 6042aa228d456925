"""
Small proxies that are wrong in one thing each.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.kit.honest import Fields, Head, Honest, Stream


class LosesAByteOfTheRequestSegment(Honest):
    def tunnel(self, client: Stream, back: Stream) -> None:
        client.early = client.early[1:]
        super().tunnel(client, back)


class LosesAByteOfThe101Segment(Honest):
    def tunnel(self, client: Stream, back: Stream) -> None:
        back.early = back.early[1:]
        super().tunnel(client, back)


class TunnelsARefusal(Honest):
    def goes_on(
        self, head: Head, answer: Head, asked: Sequence[str], client: Stream, back: Stream
    ) -> bool:
        if asked:
            self.tunnel(client, back)
        return not asked


class ClosesBehindARefusal(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        is_refusal = " 403 " in answer.line
        return [*super().answer_fields(answer), *([("Connection", "close")] if is_refusal else [])]


class PassesH2c(Honest):
    tokens = ("raw", "h2c")


class PassesTLS(Honest):
    tokens = ("raw", "tls/1.2")


class SwitchesUnasked(Honest):
    def may_switch(self, answer: Head, asked: Sequence[str]) -> bool:
        return True


class UpgradesInHTTP10(Honest):
    def asked(self, head: Head) -> list[str]:
        return super().asked(Head(head.line.replace("/1.0", "/1.1"), head.fields))


class UpgradesWithoutConnection(Honest):
    def asked(self, head: Head) -> list[str]:
        return super().asked(Head(head.line, [*head.fields, ("Connection", "upgrade")]))


class KeepsNamedFieldsOfRequests(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"probe-hop"}


class SeesOneConnectionLine(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        lines = [field for field in head.fields if field[0].lower() == "connection"][:1]
        return super().dropped_from_request(Head(head.line, lines))


class KeepsNamedFieldsOfAnswers(Honest):
    def dropped_from_answer(self, answer: Head) -> set[str]:
        return super().dropped_from_answer(answer) - {"probe-hop"}


class KeepsKeepAlive(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"keep-alive"}


class KeepsConnectionOf426ToItself(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        fields = super().answer_fields(answer)
        is_426 = " 426 " in answer.line
        return [field for field in fields if not is_426 or field[0] != "Connection"]


class LosesContentOfRefusals(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        fields = super().answer_fields(answer)
        return [(n, "0" if n == "Content-Length" and " 403 " in answer.line else v) for n, v in fields]


class KeepsLengthOf101(Honest):
    def dropped_from_answer(self, answer: Head) -> set[str]:
        return super().dropped_from_answer(answer) - {"content-length"}


class HasNoVia(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        return [field for field in super().request_fields(head, asked, body) if field[0] != "Via"]


class BelievesTheClient(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"x-forwarded-for"}

    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        said = head.elements("x-forwarded-for")
        return [field for field in fields if not said or field[1] != "127.0.0.1"]


class ChangesHost(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        return [("Host", "back.example"), *(field for field in fields if field[0] != "Host")]


class Makes502Of426(Honest):
    def may_refuse(self, answer: Head, asked: Sequence[str]) -> bool:
        return " 426 " not in answer.line


class LosesHalfCloses(Honest):
    def ends(self, other: socket.socket) -> bool:
        return False


class EndsCleanlyAtAReset(Honest):
    def is_reset(self, *socks: socket.socket) -> None:
        for sock in socks:
            sock.close()


class TakesABodyForBytes(Honest):
    def body(self, client: Stream, head: Head) -> bytes:
        takes = self.asked(head) and not head.elements("expect")
        return b"" if takes else super().body(client, head)


class BelievesTheLengthBesideChunks(Honest):
    def is_ambiguous(self, head: Head) -> bool:
        return False

    def body(self, client: Stream, head: Head) -> bytes:
        if super().is_ambiguous(head):
            head = Head(head.line, head.without({"transfer-encoding"}))
        return super().body(client, head)


class KeepsConnectionOf101ToItself(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        fields = super().answer_fields(answer)
        is_101 = " 101 " in answer.line
        return [field for field in fields if not is_101 or field[0] != "Connection"]


class WantsConnectionAlone(Honest):
    def asked(self, head: Head) -> list[str]:
        return super().asked(head) if head.elements("connection") == ["upgrade"] else []


class TakesA100ForTheAnswer(Honest):
    skips_interim = False

    def answer_fields(self, answer: Head) -> Fields:
        return [("Content-Length", "0")] if " 100 " in answer.line else super().answer_fields(answer)

    def may_refuse(self, answer: Head, asked: Sequence[str]) -> bool:
        return " 100 " not in answer.line


class ClosesInPlaceOf502(Honest):
    def has_failed(self, client: Stream) -> bool:
        return False


class TellsNobody(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        return [field for field in fields if field[0] != "X-Forwarded-For"]


class ForgetsVia(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        return super().request_fields(Head(head.line, head.without({"via"})), asked, body)


class AddsAHost(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        return fields if asked else [*fields, ("Host", "back.example")]


class LosesUnknownFields(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) | {"probe-two"}


class LosesUnknownFieldsOf101(Honest):
    def dropped_from_answer(self, answer: Head) -> set[str]:
        return super().dropped_from_answer(answer) | {"probe-one"}


class KeepsProxyConnection(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"proxy-connection"}


class KeepsTE(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"te"}


class KeepsUpgrade(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        is_asked = "upgrade" in head.elements("connection")
        return super().dropped_from_request(head) - (set() if is_asked else {"upgrade"})


class PassesAnyToken(Honest):
    tokens = ("raw", "h2c", "tls/1.2", "probe-unknown")


class LosesABodyBehind100(Honest):
    def body(self, client: Stream, head: Head) -> bytes:
        body = super().body(client, head)
        return b"" if head.elements("expect") else body


class Makes502Of200(Honest):
    def may_refuse(self, answer: Head, asked: Sequence[str]) -> bool:
        return not asked or " 200 " not in answer.line


class LosesOrigin(Honest):
    tokens = ("websocket",)

    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) | {"origin"}


class ChangesPings(Honest):
    tokens = ("websocket",)

    def relayed(self, data: bytes) -> bytes:
        # A ping between the fragments of a text message gets an opcode that does not exist.
        return data.replace(b"one\x89\0", b"one\x83\0")


class IgnoresEnds(Honest):
    def ends(self, other: socket.socket) -> bool:
        return True

    def is_reset(self, *socks: socket.socket) -> None:
        self.is_over.wait()


class StopsAfterSome(Honest):
    left = 65536

    def relayed(self, data: bytes) -> bytes:
        data = data[: self.left]
        self.left -= len(data)
        return data


class HoldsWordsBack(Honest):
    def relayed(self, data: bytes) -> bytes:
        return data if len(data) > 8 else b""


class IsImpatient(Honest):
    patience = 0.01


#: And which checks find it, of all.
WRONG: dict[type[Honest], set[str]] = {
    LosesAByteOfTheRequestSegment: {
        "early-bytes-in-request",
        "early-bytes-like-http",
        "early-bytes-split-request",
        "early-bytes-many",
        "half-close-behind-request",
    },
    LosesAByteOfThe101Segment: {
        "101-behind-100",
        "101-with-content-length",
        "101-with-transfer-encoding",
        "early-bytes-in-101",
        "early-bytes-split-101",
        "end-in-segment-of-101",
        "many-bytes-down",
    },
    TunnelsARefusal: {
        "connection-stays",
        "no-tunnel-before-101",
        "request-behind-refusal",
        "upgrade-behind-refusal",
    },
    ClosesBehindARefusal: {"connection-stays"},
    PassesH2c: {"h2c", "h2c-alone-in-connection", "h2c-behind-token"},
    PassesTLS: {"tls"},
    SwitchesUnasked: {
        "101-to-another-token",
        "101-to-http-1.0",
        "101-to-plain-request",
        "101-without-upgrade",
    },
    UpgradesInHTTP10: {"101-to-http-1.0"},
    UpgradesWithoutConnection: {"upgrade-without-connection"},
    KeepsNamedFieldsOfRequests: {
        "named-field-of-request",
        "named-field-of-upgrade",
        "named-field-second-line",
    },
    SeesOneConnectionLine: {"named-field-second-line"},
    KeepsNamedFieldsOfAnswers: {"named-field-of-101", "named-field-of-refusal"},
    KeepsKeepAlive: {"keep-alive"},
    KeepsConnectionOf426ToItself: {"connection-of-426"},
    LosesContentOfRefusals: {
        "connection-stays",
        "refusal-403",
        "refusal-cut-off",
        "request-behind-refusal",
        "upgrade-behind-refusal",
    },
    KeepsLengthOf101: {"101-with-content-length"},
    HasNoVia: {"via", "via-kept", "via-of-upgrade"},
    BelievesTheClient: {"forwarded-for-forged"},
    ChangesHost: {"host-kept"},
    Makes502Of426: {"refusal-426"},
    LosesHalfCloses: {
        "half-close-behind-request",
        "half-close-of-client",
        "half-close-of-far-side",
    },
    EndsCleanlyAtAReset: {"reset-of-client-is-one", "reset-of-far-side-is-one"},
    TakesABodyForBytes: {"body-in-chunks", "body-with-length"},
    BelievesTheLengthBesideChunks: {"length-and-chunks", "length-and-chunks-is-last"},
    KeepsConnectionOf101ToItself: {"101-names-the-token"},
    WantsConnectionAlone: {
        "connection-of-upgrade",
        "named-field-of-upgrade",
        "upgrade-behind-refusal",
    },
    LosesABodyBehind100: {"expect-100-continue"},
    TakesA100ForTheAnswer: {"101-behind-100"},
    ClosesInPlaceOf502: {"far-side-closes", "far-side-is-no-http"},
    TellsNobody: {"forwarded-for"},
    ForgetsVia: {"via-kept"},
    AddsAHost: {"host"},
    LosesUnknownFields: {"other-fields-of-upgrade"},
    LosesUnknownFieldsOf101: {"other-fields-of-101"},
    KeepsProxyConnection: {"proxy-connection"},
    KeepsTE: {"te"},
    KeepsUpgrade: {"upgrade-removed-without-connection"},
    PassesAnyToken: {"h2c", "h2c-alone-in-connection", "h2c-behind-token", "tls", "unknown-token"},
    Makes502Of200: {"refusal-200"},
    LosesOrigin: {"websocket-fields"},
    ChangesPings: {"websocket-frames"},
}

#: Checks that find it by waiting in vain, of which only these are run.
SILENT: dict[type[Honest], set[str]] = {
    IgnoresEnds: {
        "end-in-segment-of-101",
        "end-of-client",
        "end-of-far-side",
        "reset-of-client-ends-far-side",
        "reset-of-far-side-ends-client",
    },
    StopsAfterSome: {"many-bytes-up"},
    HoldsWordsBack: {"words-in-turn"},
    IsImpatient: {"idle"},
}
