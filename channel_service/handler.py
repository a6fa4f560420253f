"""The channel service: links and their clocks, feedback, the channel between transmitter and receiver."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from channel_service.fading import ChannelWindows
from channel_service.frames import CheckedFrame, check_frame, slot_groups
from channel_service.mimo_channel import (
    NoiseRealization,
    draw,
    pilot_length,
    slot_streams,
    transmit,
    with_interferers,
)
from channel_service.reports import Reports
from semlink.batching import MicroBatcher, ThreadExecutor
from semlink.errors import InvalidField, SemlinkError, Unavailable
from semlink.grid import HISTORY_SLOTS
from semlink.grouping import grouped, run_grouped
from semlink.links import Link, checked_link, link_id_of, slot_of_query
from semlink.services import KnowledgeBaseService, ReceiverService
from semlink.settings import Settings
from semlink.signal.csi import content_of, quantizer_for
from semlink.signal.feedback import decode_reports, needed_report_slots, report_slots
from semlink.signal.metrics import sgcs
from semlink.signal.schemes import check_feedback
from semlink.store import Store
from semlink.telemetry import record_degraded, timed
from semlink.v1 import channel_pb2, common_pb2, knowledge_pb2, receiver_pb2
from semlink.weight_files import Weights
from semlink.wire import from_wire, to_wire


@dataclass(frozen=True, slots=True)
class _TransmittedFrame:
    """A frame after the channel: what the receiver gets, and the figures it does not get."""

    received: receiver_pb2.ReceivedFrame
    link: channel_pb2.LinkReport
    timings: tuple[common_pb2.Timing, ...]


class Channel:
    """Satisfies :class:`semlink.services.ChannelService`.

    ``receiver`` and ``knowledge`` are services or clients of services; ``knowledge`` is asked only by
    :meth:`get_csi`, for the plot of the predicted channel. ``cache_bytes`` bounds what is cached of channels and
    reports; default: ``settings.channel_cache_mib``.
    """

    def __init__(
        self,
        receiver: ReceiverService,
        store: Store,
        settings: Settings,
        *,
        knowledge: KnowledgeBaseService | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self._receiver = receiver
        self._store = store
        self._knowledge = knowledge
        self._weights = settings.weights
        of_all = settings.channel_cache_mib << 20 if cache_bytes is None else cache_bytes
        self.windows = ChannelWindows(of_all * 7 // 8, settings.device)
        self._reports = Reports(self.windows, of_all // 16, settings.weights)
        self._air: MicroBatcher[tuple[CheckedFrame, ...], list[_TransmittedFrame]] = MicroBatcher(
            ThreadExecutor(self._transmit_batch, "channel.air"),
            name="channel.air",
            max_batch=256,
            max_queue=settings.max_queue,
        )

    def warm_up(self) -> None:
        """Make a first window, so that the first query does not pay for Sionna's set-up."""
        self.windows.window(Link(), 0)

    async def close(self) -> None:
        """Finish what is queued."""
        await self._air.drain()

    # --- links ---------------------------------------------------------------------------------

    async def open_link(self, request: channel_pb2.OpenLinkRequest) -> channel_pb2.Link:
        """Open a link; its clock starts after ``HISTORY_SLOTS`` slots whose reports are made already.

        Raises InvalidField naming ``config.…``, also for feedback that no quantiser makes, Unavailable without a store.
        """
        config = checked_link(request.config, field="config")
        await asyncio.to_thread(check_feedback, config, self._weights, field="config")
        link = channel_pb2.Link(
            link_id=f"l-{secrets.token_urlsafe(12)}", config=config.to_proto(), slot=HISTORY_SLOTS
        )
        await self._store.put_link(link)
        return link

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        """One open link. Raises NotFound."""
        return await self._store.link(request.link_id)

    async def list_links(
        self,
        request: channel_pb2.ListLinksRequest,  # noqa: ARG002 - the protocol's signature
    ) -> channel_pb2.ListLinksResponse:
        """Every open link."""
        return channel_pb2.ListLinksResponse(links=await self._store.links())

    async def close_link(
        self, request: channel_pb2.CloseLinkRequest
    ) -> channel_pb2.CloseLinkResponse:
        """Forget a link and its reports. Raises NotFound."""
        await self._store.delete_link(request.link_id)
        return channel_pb2.CloseLinkResponse()

    # --- slots and feedback --------------------------------------------------------------------

    async def grant(self, request: channel_pb2.GrantRequest) -> channel_pb2.GrantResponse:
        """Grant a slot to each item; the reports usable in it are in the store afterwards.

        A link by value: the slot that ``seed`` picks, user 0. An opened link: its clock advances by one slot for each
        item without a ``sharing`` key and for every ``num_users`` items with the same one, which get users 0, 1, …
        of the slot in their order. Without a store the slots of links by value are granted all the same, degraded by
        "store": their reports are missing.
        Raises InvalidField naming ``items[i].…``, NotFound for a link that is not open.
        """
        with timed("channel.grant"):
            slots = await self._slots_of(request.items)
            await self._feed_back(slots)
        return channel_pb2.GrantResponse(slots=slots)

    async def _slots_of(self, items: Sequence[channel_pb2.GrantItem]) -> list[channel_pb2.Slot]:
        opened: list[int] = []
        slots = [channel_pb2.Slot() for _ in items]
        for i, item in enumerate(items):
            match item.WhichOneof("link"):
                case "link_config":
                    config = checked_link(item.link_config, field=f"items[{i}].link_config")
                    slots[i] = channel_pb2.Slot(
                        link_id=link_id_of(config),
                        config=config.to_proto(),
                        slot=slot_of_query(config, item.seed),
                    )
                case "link_id":
                    opened.append(i)
                case _:
                    raise InvalidField(
                        f"items[{i}].link is absent, allowed: link_id or link_config",
                        field=f"items[{i}].link",
                    )
        for link_id, members in grouped(opened, lambda i: items[i].link_id).items():
            link = await self._store.link(link_id)
            places = _places([items[i].sharing for i in members], link.config.num_users)
            first = await self._store.advance(link_id, 1 + max(offset for offset, _ in places))
            for i, (offset, user) in zip(members, places, strict=True):
                slots[i] = channel_pb2.Slot(
                    link_id=link_id, config=link.config, slot=first + offset, user=user
                )
        return slots

    async def _feed_back(self, slots: list[channel_pb2.Slot]) -> None:
        """Put every report that is usable in the slots into the store, one write a link."""
        made = await asyncio.to_thread(self._due, grouped(slots, lambda slot: slot.link_id))
        outcomes = await asyncio.gather(
            *(self._store.put_reports(link_id, reports) for link_id, reports in made.items()),
            return_exceptions=True,
        )
        lost: dict[str, common_pb2.Degradation] = {}
        for link_id, outcome in zip(made, outcomes, strict=True):
            if isinstance(outcome, Unavailable):
                lost[link_id] = common_pb2.Degradation(part="store", reason=outcome.message)
            elif outcome is not None:
                raise outcome
        for slot in slots:
            if slot.link_id in lost:
                slot.degraded.append(lost[slot.link_id])
        record_degraded("channel", (d for slot in slots for d in slot.degraded))

    def _due(
        self, slots: dict[str, list[channel_pb2.Slot]]
    ) -> dict[str, list[common_pb2.CsiReport]]:
        """Every report that is usable in one of the slots of its link.

        The channel of the slots themselves is generated along, ahead of the frames that are transmitted in them.
        """
        wanted = []
        for link_id, members in slots.items():
            config = checked_link(members[0].config)
            due = {due for slot in members for due in needed_report_slots(config, slot.slot)}
            wanted.append((config, sorted(due), link_id))
        self.windows.prepare(
            (config, [slot.slot for slot in slots[link_id]]) for config, _, link_id in wanted
        )
        return dict(zip(slots, self._reports.made_for(wanted), strict=True))

    # --- transmission -------------------------------------------------------------------------------

    async def transmit(self, request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        """Carry the frames to the receiver; its answers come back with the link's figures, in their order.

        The receiver gets the header, samples, pilots and zero-power elements, and nothing that did not cross the
        channel; its answers find their way back by their order. Frames of one slot of an opened link share a slot:
        each is interference to the others.
        Raises InvalidField or CorruptTensor naming ``frames[i].…``, and what the receiver raises.
        """
        checked = [
            check_frame(frame, field=f"frames[{i}]") for i, frame in enumerate(request.frames)
        ]
        together = slot_groups(checked)
        results = await self._air.submit_many(
            [tuple(checked[i] for i in group) for group in together]
        )
        by_frame = {
            i: f
            for group, co_scheduled in zip(together, results, strict=True)
            for i, f in zip(group, co_scheduled, strict=True)
        }
        transmitted = [by_frame[i] for i in range(len(checked))]
        answer = await self._receiver.receive(
            receiver_pb2.ReceiveRequest(frames=[f.received for f in transmitted])
        )
        if len(answer.receptions) != len(transmitted):
            raise SemlinkError(
                f"the receiver answered {len(answer.receptions)} of {len(transmitted)} frames"
            )
        return channel_pb2.TransmitResponse(
            deliveries=[
                _deliver(frame, f, reception)
                for frame, f, reception in zip(
                    request.frames, transmitted, answer.receptions, strict=True
                )
            ]
        )

    def _transmit_batch(
        self, batch: list[tuple[CheckedFrame, ...]]
    ) -> list[list[_TransmittedFrame]]:
        """Let slot groups be transmitted: each frame to its user, those of equal shape in one tensor operation."""
        frames = [frame for group in batch for frame in group]
        with timed("channel.window") as block_clock:
            truth = [self.windows.slot(f.config, f.slot)[f.user] for f in frames]
        with timed("channel.air") as air_clock:
            draws = [one for group in batch for one in _noise_of(group)]
            received = run_grouped(
                list(zip(frames, truth, draws, strict=True)),
                lambda one: one[0].shape,
                _apply_channel,
            )
            figures = run_grouped(
                list(zip(frames, truth, strict=True)),
                lambda one: (
                    one[0].assumed_csi is None,
                    one[1].shape,
                    one[0].config.num_layers,
                    one[0].config.feedback.content,
                ),
                _csi_figures,
            )
        timings = (block_clock.timing(), air_clock.timing())
        reports = (
            _link_report(frame, sinr_db, found, self._weights)
            for frame, (_, sinr_db), found in zip(frames, received, figures, strict=True)
        )
        transmitted = (
            _TransmittedFrame(samples, report, timings)
            for (samples, _), report in zip(received, reports, strict=True)
        )
        results = [[next(transmitted) for _ in group] for group in batch]
        for group in results:
            for one in group:
                one.link.co_scheduled = len(group) - 1
        return results

    # --- for plots -----------------------------------------------------------------------------

    async def get_csi(self, request: channel_pb2.GetCsiRequest) -> channel_pb2.GetCsiResponse:
        """Magnitudes of user 0's channel of an open link: true, and as estimated, fed back and predicted.

        ``report_slot`` is that of the newest usable report, absent without one. Predicted only where this service knows
        a knowledge base that answers. Raises NotFound, InvalidField for a negative slot.
        """
        link = await self._store.link(request.link_id)
        slot = request.slot if request.HasField("slot") else link.slot
        if slot < 0:
            raise InvalidField(f"slot is {slot}, allowed: ≥ 0", field="slot")
        response = await asyncio.to_thread(self._csi_of, checked_link(link.config), slot)
        if self._knowledge is not None and response.HasField("report_slot"):
            await self._add_prediction(response, link, slot)
        return response

    def _csi_of(self, config: Link, slot: int) -> channel_pb2.GetCsiResponse:
        response = channel_pb2.GetCsiResponse(
            slot=slot,
            true_magnitude=_magnitude(self.windows.slot(config, slot)[0]),
        )
        usable = report_slots(config, slot, 1)
        if usable:
            response.report_slot = usable[-1]
            estimate = self._reports.estimates(config, usable[-1:])[:, 0]
            made = self._reports.made_in(config, needed_report_slots(config, slot, 1))
            csi, _ = decode_reports(config, made, usable, self._weights)
            response.estimated_magnitude.CopyFrom(_magnitude(estimate[0]))
            response.fed_back_magnitude.CopyFrom(_magnitude(csi[0, -1]))
        return response

    async def _add_prediction(
        self, response: channel_pb2.GetCsiResponse, link: channel_pb2.Link, slot: int
    ) -> None:
        """Put the usable reports where the knowledge base looks for them, ask it, take its prediction."""
        assert self._knowledge is not None
        config = checked_link(link.config)
        due = needed_report_slots(config, slot)
        await self._store.put_reports(
            link.link_id, await asyncio.to_thread(self._reports.made_in, config, due, link.link_id)
        )
        request = knowledge_pb2.PredictCsiRequest(
            items=[
                knowledge_pb2.PredictCsiItem(link_id=link.link_id, config=link.config, slot=slot)
            ]
        )
        try:
            (predicted,) = (await self._knowledge.predict_csi(request)).predictions
        except Unavailable as error:
            response.predictor = f"none: {error.message}"
            return
        if predicted.csi.dtype:
            csi = from_wire(predicted.csi, field="predictions[0].csi", dtype="complex64")
            response.predicted_magnitude.CopyFrom(to_wire(np.abs(csi[0])))
        response.predictor = predicted.source


def _places(sharing: Sequence[str], num_users: int) -> list[tuple[int, int]]:
    """Slot (counted from the first) and user of each item: items of one non-empty key fill slots user by user."""
    places: list[tuple[int, int]] = []
    filling: dict[str, tuple[int, int]] = {}
    next_slot = 0
    for key in sharing:
        slot, user = filling.get(key, (0, num_users))
        if not key or user == num_users:
            slot, user, next_slot = next_slot, 0, next_slot + 1
        places.append((slot, user))
        filling[key] = (slot, user + 1)
    return places


def _noise_of(group: Sequence[CheckedFrame]) -> list[NoiseRealization]:
    """What chance adds to each frame of a slot, its neighbours' symbols included."""
    draws = [
        draw(
            frame.config.seed,
            frame.slot,
            frame.seed,
            num_rx_ant=frame.config.num_rx_ant,
            num_layers=frame.config.num_layers,
            num_streams=frame.precoder.shape[-1],
            num_elements=frame.symbols.shape[-1],
            user=frame.user,
        )
        for frame in group
    ]
    if len(group) == 1:
        return draws
    first = group[0]
    streams = slot_streams(
        first.config.seed,
        first.slot,
        [(frame.user, frame.symbols) for frame in group],
        num_streams=first.precoder.shape[-1],
    )
    return [with_interferers(d, streams, frame.user) for d, frame in zip(draws, group, strict=True)]


def _apply_channel(
    alike: list[tuple[CheckedFrame, torch.Tensor, NoiseRealization]],
) -> list[tuple[receiver_pb2.ReceivedFrame, float]]:
    """What the receiver gets of frames of equal shape, and the true SINR after its equaliser, dB."""
    frames, truth, draws = zip(*alike, strict=True)
    h = torch.stack(truth)
    received = transmit(
        h,
        torch.from_numpy(np.stack([frame.precoder for frame in frames])).to(h.device),
        torch.from_numpy(np.stack([frame.symbols for frame in frames])).to(h.device),
        torch.tensor(
            [frame.config.snr_db for frame in frames], dtype=torch.float64, device=h.device
        ),
        draws,
        torch.tensor([frame.user for frame in frames], device=h.device),
    )
    num_pilots = pilot_length(received.pilots.shape[-1])
    return [
        (
            receiver_pb2.ReceivedFrame(
                header=frame.header,
                samples=to_wire(samples),
                pilots=to_wire(pilots),
                pilot_length=num_pilots,
                noise=to_wire(noise),
            ),
            sinr_db,
        )
        for frame, samples, pilots, noise, sinr_db in zip(
            frames,
            received.samples,
            received.pilots,
            received.zero_power,
            received.sinr_db.tolist(),
            strict=True,
        )
    ]


def _csi_figures(
    alike: list[tuple[CheckedFrame, torch.Tensor]],
) -> list[tuple[float, float] | None]:
    """NMSE in dB (of what the link's reports describe) and SGCS of the CSI that each precoder was made from, if any."""
    first, _ = alike[0]
    if first.assumed_csi is None:
        return [None] * len(alike)
    h = torch.stack([truth for _, truth in alike])
    csi = np.stack([frame.assumed_csi for frame, _ in alike if frame.assumed_csi is not None])
    assumed = torch.from_numpy(csi).to(h.device)
    errors = content_of(first.config).nmse_db(h, assumed)
    return list(zip(errors.tolist(), sgcs(h, assumed).tolist(), strict=True))


def _link_report(
    frame: CheckedFrame, sinr_db: float, figures: tuple[float, float] | None, weights: Weights
) -> channel_pb2.LinkReport:
    config = frame.config
    report = channel_pb2.LinkReport(
        snr_db=config.snr_db,
        channel_uses=frame.num_symbols,
        feedback_bits=quantizer_for(config, weights).bits,
        header_bytes=len(frame.header),
        post_eq_snr_db=sinr_db,
        slot=frame.slot,
        user=frame.user,
    )
    usable = report_slots(config, frame.slot, 1)
    if usable:
        report.csi_age_slots = frame.slot - usable[-1]
    if figures is not None:
        report.csi_nmse_db, report.csi_sgcs = figures
    return report


def _deliver(
    frame: channel_pb2.Frame, transmitted: _TransmittedFrame, reception: receiver_pb2.Reception
) -> channel_pb2.Delivery:
    report = transmitted.link
    report.post_eq_snr_estimate_db = reception.post_eq_snr_estimate_db
    report.erased = reception.erased
    return channel_pb2.Delivery(
        query_id=frame.query_id,
        matches=reception.matches,
        link=report,
        timings=[*transmitted.timings, *reception.timings],
        degraded=reception.degraded,
    )


def _magnitude(h: torch.Tensor) -> common_pb2.Tensor:
    return to_wire(h.abs().float())
