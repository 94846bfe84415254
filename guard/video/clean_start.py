"""Whether decoding may start at a packet and show what decoding from the beginning shows.

A container's key flag is the uploader's word, and even the decoder calls a frame "key" that only *may* be a start: in
H.264 an I frame with a recovery point message, in HEVC a CRA frame. Both leave older frames in the decoder, and a frame
behind them may refer to those. After a jump such a reference is missing, the decoder paints something else, and reports
no error. An IDR frame empties the decoder by definition, whoever made the file. The other formats that are decoded here
empty it at every frame that they call a key frame, which `av_frame.stands_alone` asks the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_H264_SLICES, _H264_IDR = range(1, 6), frozenset({5})
_HEVC_SLICES, _HEVC_IDR = range(32), frozenset({19, 20})


@dataclass(frozen=True, slots=True)
class CleanStart:
    """Judges the packets of one stream."""

    codec: str
    """Name of the decoder."""
    length_bytes: int
    """Size of the length before each NAL unit; 0 where start codes part them (Annex B)."""

    @classmethod
    def of(cls, codec: str, extradata: bytes | None) -> CleanStart:
        """Return the judge for a stream; `extradata` is what its container says to the decoder."""
        head = extradata or b""
        place = {"h264": 4, "hevc": 21}.get(codec)
        prefixed = place is not None and len(head) > place and head[0] == 1
        return cls(codec, (head[place] & 3) + 1 if prefixed and place is not None else 0)

    def accepts(self, data: bytes) -> bool:
        """Whether a packet that is called a key frame empties the decoder: every slice in it is of an IDR frame."""
        if self.codec == "h264":
            kinds = [unit[0] & 31 for unit in self._units(data)]
            slices, idr = _H264_SLICES, _H264_IDR
        elif self.codec == "hevc":
            kinds = [unit[0] >> 1 & 63 for unit in self._units(data)]
            slices, idr = _HEVC_SLICES, _HEVC_IDR
        else:
            return True
        pictures = [kind for kind in kinds if kind in slices]
        return bool(pictures) and all(kind in idr for kind in pictures)

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the first byte of every NAL unit."""
        at = 0
        if self.length_bytes:
            while at + self.length_bytes < len(data):
                size = int.from_bytes(data[at : at + self.length_bytes], "big")
                at += self.length_bytes
                if size:
                    yield data[at : at + 1]
                at += size
            return
        while (at := data.find(b"\x00\x00\x01", at)) >= 0 and at + 3 < len(data):
            yield data[at + 3 : at + 4]
            at += 4
