"""Pictures that a server has in its cache are named, not sent again: ``uuid`` on an image part.

vLLM keeps what it made of a picture under the ``uuid`` of its part, and takes a part whose ``image_url`` is
null from there; a picture that it no longer has is a refusal, and then all are sent
(https://docs.vllm.ai/en/latest/features/multimodal_inputs/, "you can also skip sending media"). It trusts
the name alone, so the name is the SHA-256 of the data URL: another picture never has it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from annotationrun_worker.vlm.messages import ContentPart

_REMEMBERED: Final = 256
"""Pictures of a server; 4 GiB, vLLM's default for its cache, hold about as many contact sheets."""


def picture_uuid(part: ContentPart) -> str:
    """The name of the picture in an image part."""
    return hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()


class KnownImages:
    """The pictures that one server has likely in its cache."""

    def __init__(self) -> None:
        """None yet."""
        self._uuids: OrderedDict[str, None] = OrderedDict()
        self.left_out = 0
        """Pictures in all that were named in place of being sent, and taken."""

    def wire_body(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], int]:
        """The request as it is sent.

        Returns:
            The body with the pictures named, those that are known left out; all their names; how many are
            left out.
        """
        uuids: list[str] = []
        left_out = 0

        def named(part: ContentPart) -> ContentPart:
            nonlocal left_out
            if part.get("type") != "image_url":
                return part
            uuid = picture_uuid(part)
            uuids.append(uuid)
            if uuid not in self._uuids:
                return {**part, "uuid": uuid}
            left_out += 1
            return {**part, "uuid": uuid, "image_url": None}

        messages = [
            message
            if isinstance(message["content"], str)
            else {**message, "content": [named(part) for part in message["content"]]}
            for message in body["messages"]
        ]
        return {**body, "messages": messages}, uuids, left_out

    def taken(self, uuids: list[str], left_out: int) -> None:
        """The server has answered a request with these pictures."""
        self.left_out += left_out
        for uuid in uuids:
            self._uuids[uuid] = None
            self._uuids.move_to_end(uuid)
        while len(self._uuids) > _REMEMBERED:
            self._uuids.popitem(last=False)

    def missed(self, uuids: list[str]) -> None:
        """The server lacks some of these, or one that is among them."""
        for uuid in uuids:
            self._uuids.pop(uuid, None)
