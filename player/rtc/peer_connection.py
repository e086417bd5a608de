"""Peer connections that send a viewer's track, and a test of the installed aiortc."""

import asyncio
from functools import partial

from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPsfbPacket

from encoder.common.errors import SettingsError
from player.rtc import rtp_sender
from player.rtc.aioice_hooks import offers_host_addresses
from player.rtc.aiortc_hooks import (
    SenderInternals,
    drop_bandwidth_estimate,
    replace_send_loop,
    use_our_ciphers,
)
from player.rtc.answer import complete_answer, offer_for_aiortc
from player.rtc.codec_choice import CodecChoice
from player.rtc.fanout import ViewerTrack
from player.rtc.offer import Offer
from player.rtc.sound_sender import SoundSender
from player.rtc.video_encoder import CODECS

SDP_ERRORS = (
    InvalidAccessError,
    InvalidStateError,
    OperationError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""Exceptions that aiortc raises for a malformed description, which it parses without checks."""
UNSUPPORTED = "this version of aiortc is not supported: install nervcast with its constraints"


def add_viewer(
    connection: RTCPeerConnection, viewer: ViewerTrack, *, any_codec: bool = False
) -> RTCRtpTransceiver:
    """Send a viewer's track over a connection.

    Only the track's codec is negotiated, or any of ours with `any_codec`.
    """
    use_our_ciphers(connection)
    transceiver = connection.addTransceiver(viewer, direction="sendonly")
    drop_bandwidth_estimate(transceiver.receiver)
    known = RTCRtpSender.getCapabilities("video").codecs
    wanted = [f"video/{codec}" for codec in (CODECS if any_codec else [viewer.codec])]
    preferred = [codec for name in wanted for codec in known if codec.mimeType == name]
    retransmission = [codec for codec in known if codec.mimeType == "video/rtx"]
    transceiver.setCodecPreferences([*preferred, *retransmission])
    sender = transceiver.sender
    replace_send_loop(
        sender,
        partial(_send, SenderInternals(sender), viewer),
        on_picture_loss=viewer.picture_lost,
        on_packet_loss=viewer.packet_lost,
    )
    return transceiver


async def _send(sender: SenderInternals, viewer: ViewerTrack, codec: RTCRtpCodecParameters) -> None:
    """Send a viewer's pictures and sound until the track or the connection ends."""
    sound = None if viewer.sound is None else asyncio.create_task(viewer.sound.run())
    try:
        await rtp_sender.run(sender, viewer, codec)
    finally:
        if sound is not None:
            sound.cancel()


async def answer_offer(
    connection: RTCPeerConnection, offer: Offer, choice: CodecChoice, viewer: ViewerTrack
) -> str:
    """Return the answer (SDP) to a viewer's offer, in one codec, with sound if it is asked for."""
    (transceiver,) = connection.getTransceivers()
    if offer.sound_format is not None:
        sender = SenderInternals(transceiver.sender)
        viewer.sound = SoundSender(sender, offer.sound_format.payload_type)
    description = RTCSessionDescription(offer_for_aiortc(offer, choice), "offer")
    await connection.setRemoteDescription(description)
    await connection.setLocalDescription(await connection.createAnswer())
    return complete_answer(
        offer,
        choice,
        connection.localDescription.sdp,
        sound_ssrc=None if viewer.sound is None else viewer.sound.ssrc,
    )


async def make_offer(connection: RTCPeerConnection) -> str:
    """Return our own offer (SDP)."""
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


async def accept_answer(connection: RTCPeerConnection, answer: Offer, choice: CodecChoice) -> None:
    """Take a viewer's answer to our own offer, in one codec."""
    description = RTCSessionDescription(offer_for_aiortc(answer, choice), "answer")
    await connection.setRemoteDescription(description)


async def self_test() -> None:
    """Raise SettingsError if the installed aiortc or aioice lacks a part that is hooked into.

    Servers run it at their start, not at the first viewer.
    """
    requests: list[bool] = []

    class _TestTrack(ViewerTrack):
        def picture_lost(self) -> None:
            requests.append(True)

    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    viewer = _TestTrack("H264")
    try:
        sender = SenderInternals(add_viewer(connection, viewer).sender)
        await sender.receive_rtcp(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=sender.ssrc))
        if not requests or not sender.is_supported or not await offers_host_addresses():
            raise SettingsError(UNSUPPORTED)
    except (AttributeError, TypeError) as error:
        raise SettingsError(f"{UNSUPPORTED} ({error})") from None
    finally:
        viewer.stop()
        await connection.close()
