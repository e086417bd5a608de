"""The one place that reaches into aiortc: for packets that are encoded already, and requests for key frames."""

from functools import partial

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCRtpTransceiver
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPsfbPacket

from encoder.codec.errors import SettingsError
from player import rtp
from player.broadcast import Viewer

UNSUPPORTED = "this version of aiortc is not supported: install nervcast with its constraints"


def add_viewer(connection: RTCPeerConnection, viewer: Viewer) -> RTCRtpTransceiver:
    """Send a viewer's track over a connection, in his codec alone."""
    transceiver = connection.addTransceiver(viewer, direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([c for c in known if c.mimeType in (f"video/{viewer.codec}", "video/rtx")])
    sender = transceiver.sender
    # aiortc forgets a receiver's request for a key frame where packets come encoded already.
    sender._send_keyframe = viewer.picture_lost  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    sender._run_rtp = partial(rtp.run, sender)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return transceiver


async def self_test() -> None:
    """Fail at the start, not at the first viewer, where another aiortc lacks what is hooked into; raises SettingsError."""
    asked: list[bool] = []

    class _Asking(Viewer):
        def picture_lost(self) -> None:
            asked.append(True)

    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    viewer = _Asking("H264")
    try:
        sender = add_viewer(connection, viewer).sender
        loss = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=sender._ssrc)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        await sender._handle_rtcp_packet(loss)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if not asked or not rtp.is_supported(sender) or not await _offers_what_is_told():
            raise SettingsError(UNSUPPORTED)
    except (AttributeError, TypeError) as error:
        raise SettingsError(f"{UNSUPPORTED} ({error})") from None
    finally:
        viewer.stop()
        await connection.close()


async def _offers_what_is_told() -> bool:
    """Return whether aioice offers the addresses that it is made to."""
    told = set(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True))
    connection = aioice.Connection(ice_controlling=True)
    try:
        await connection.gather_candidates()
        return {candidate.host for candidate in connection.local_candidates} <= told
    finally:
        await connection.close()
