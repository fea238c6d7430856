"""A grid without Flower's network: every message goes to the app of a site in this process, as bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

_ids = itertools.count(1)


class HereGrid(Grid):
    """Nodes of this process; see ``flwr.serverapp.Grid``.

    Attributes:
        nodes: Node -> the context it keeps between messages.
        sent: Every message that crossed, and its reply, each with the bytes of its content.
        dead: Nodes that do not answer.
        intercept: Given a message before it is delivered; what it raises is the site's failure.
    """

    def __init__(self, app: ClientApp, configs: Iterable[dict[str, object]]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # who sends, as messages have it
        self.app = app
        self.nodes = {
            100 + i: Context(run_id=1, node_id=100 + i, node_config=config, state=RecordDict(), run_config={})
            for i, config in enumerate(configs)
        }
        self.sent: list[tuple[Message, bytes]] = []
        self.dead: set[int] = set()
        self.intercept: Callable[[Message], None] = lambda _: None
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: object) -> None:
        """Nothing to do."""

    @property
    def run(self) -> object:
        """No run of Flower's."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See Grid."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Those that are alive."""
        return [node for node in self.nodes if node not in self.dead]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delivers them."""
        return [self._pushed(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies, the last one first: their order must not matter."""
        return [self._waiting.pop(i) for i in reversed(list(message_ids)) if i in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Grid."""
        return self.pull_messages(self.push_messages(messages))

    def _pushed(self, message: Message) -> str:
        number = f"message-{next(_ids):06d}"
        message.metadata._message_id = number  # type: ignore[attr-defined]  # the network's to give
        node = message.metadata.dst_node_id
        self.sent.append((message, _bytes(message.content)))
        try:
            self.intercept(message)
            if node in self.dead:
                return number
            reply = self.app(message, self.nodes[node])
        except Exception as error:
            reply = Message(Error(0, str(error)), reply_to=message)
        if reply.has_content():
            self.sent.append((reply, _bytes(reply.content)))
        self._waiting[number] = reply
        return number


def _bytes(content: RecordDict) -> bytes:
    return content.deflate() if not content.children else b"".join(part.deflate() for part in content.children.values())
