"""A server of gRPC behind the gateway, and a client before it: `serve`, or `call ADDRESS TLS_ADDRESS CA`."""

import concurrent.futures
import sys
import threading
import time

import grpc

PATIENCE = 20
BINARY = bytes(range(256))
gone = {}


def as_is(message):
    return message


def echo(request, context):
    given = dict(context.invocation_metadata())
    left = context.time_remaining()
    context.send_initial_metadata((("x-head", given.get("x-text", "")), ("head-bin", given.get("own-bin", b""))))
    context.set_trailing_metadata((("x-left", str(left)), ("tail-bin", given.get("own-bin", b""))))
    return request


def fail(request, context):
    context.set_trailing_metadata((("why-bin", BINARY),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % \u00fc\n")


def wait(request, context):
    """Takes long, and notes under the name in the request when its caller was gone."""
    ended = threading.Event()
    begun = time.monotonic()
    if not context.add_callback(ended.set):
        ended.set()
    if not ended.wait(PATIENCE):
        context.abort(grpc.StatusCode.INTERNAL, "nobody cancelled it")
    gone[request] = time.monotonic() - begun
    return request


def was_cancelled(request, context):
    """How many seconds that call took, once it is over."""
    begun = time.monotonic()
    while request not in gone:
        if time.monotonic() - begun > 5:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it goes on")
        time.sleep(0.01)
    return str(gone[request]).encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


def stall(request, context):
    yield b"first"
    threading.Event().wait(3)
    yield b"too late"


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo, as_is, as_is),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, as_is, as_is),
    "Wait": grpc.unary_unary_rpc_method_handler(wait, as_is, as_is),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled, as_is, as_is),
    "Total": grpc.stream_unary_rpc_method_handler(total, as_is, as_is),
    "Count": grpc.unary_stream_rpc_method_handler(count, as_is, as_is),
    "Chat": grpc.stream_stream_rpc_method_handler(chat, as_is, as_is),
    "Stall": grpc.unary_stream_rpc_method_handler(stall, as_is, as_is),
}


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method.rsplit("/", 1)[-1])


def serve():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(120))
    server.add_generic_rpc_handlers((Handlers(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # Until whoever started it is gone.
    sys.stdin.read()


def failure(call, message, **options):
    """Code and details of a call that has to fail."""
    try:
        answer = call(message, timeout=options.pop("timeout", PATIENCE), **options)
        answer = answer if isinstance(answer, bytes) else list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details(), error
    raise AssertionError(f"it was served: {answer!r}")


def unary(channel):
    echo = channel.unary_unary("/t.S/Echo")
    metadata = (("x-text", "some text"), ("own-bin", BINARY))
    answer, call = echo.with_call(b"hello", timeout=5, metadata=metadata)
    head, tail = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (answer, call.code()) == (b"hello", grpc.StatusCode.OK), (answer, call.code())
    assert (head["x-head"], head["head-bin"], tail["tail-bin"]) == ("some text", BINARY, BINARY), (head, tail)
    # Less than what the client gave, by at least the reserve, and not by much.
    assert 4 < float(tail["x-left"]) <= 4.995, tail
    assert echo(b"", timeout=PATIENCE) == b""
    large = BINARY * 8192
    assert echo(large, timeout=PATIENCE) == large


def streams(channel):
    parts = [b"x" * 1000] * 500
    assert channel.stream_unary("/t.S/Total")(iter(parts), timeout=PATIENCE) == b"500000"
    counted = list(channel.unary_stream("/t.S/Count")(b"1000", timeout=PATIENCE))
    assert counted == [str(number).encode() for number in range(1000)], counted
    # Each message waits for the answer to the one before.
    turn = threading.Semaphore(1)

    def questions():
        for number in range(20):
            assert turn.acquire(timeout=PATIENCE), "no answer to the one before"
            yield str(number).encode()

    answers = []
    for answer in channel.stream_stream("/t.S/Chat")(questions(), timeout=PATIENCE):
        answers.append(answer)
        turn.release()
    assert answers == [b"re: " + str(number).encode() for number in range(20)], answers


def failures(channel):
    code, details, error = failure(channel.unary_unary("/t.S/Fail"), b"")
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "no such thing: 100 % \u00fc\n"), (code, details)
    assert dict(error.trailing_metadata())["why-bin"] == BINARY
    code, details, _ = failure(channel.unary_unary("/t.S/Nothing"), b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED, (code, details)
    code, details, _ = failure(channel.unary_unary("/nowhere/Echo"), b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED and "route" in details, (code, details)
    code, details, _ = failure(channel.unary_unary("/away/Echo"), b"")
    assert code == grpc.StatusCode.UNAVAILABLE and "connect" in details, (code, details)


def is_over(channel, name, at_most):
    seconds = float(channel.unary_unary("/t.S/WasCancelled")(name, timeout=PATIENCE))
    assert seconds < at_most, seconds


def limits(channel):
    code, details, _ = failure(channel.unary_unary("/t.S/Wait"), b"deadline", timeout=0.4)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, (code, details)
    is_over(channel, b"deadline", 1)
    # The gateway's own, with its own words.
    code, details, _ = failure(channel.unary_unary("/short/Wait"), b"own", timeout=None)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED and "did not answer" in details, (code, details)
    is_over(channel, b"own", 2)
    answers = channel.unary_stream("/short/Stall")(b"", timeout=PATIENCE)
    assert next(answers) == b"first"
    code, details, _ = failure(lambda _, timeout: list(answers), b"")
    assert code != grpc.StatusCode.OK, (code, details)


def cancel(channel):
    begun = channel.unary_unary("/t.S/Wait").future(b"cancelled", timeout=PATIENCE)
    # The server has it once it has what was sent after it.
    assert channel.unary_unary("/t.S/Echo")(b"behind", timeout=PATIENCE) == b"behind"
    assert begun.cancel()
    is_over(channel, b"cancelled", 5)


def at_once(channel):
    calls = [
        channel.unary_unary("/t.S/Echo").future(str(number).encode() * 100, timeout=PATIENCE) for number in range(100)
    ]
    for number, call in enumerate(calls):
        assert call.result() == str(number).encode() * 100


def keepalive(channel):
    """Pings by the hundred are no reason to cut a call, nor are those without one."""
    code, details, _ = failure(channel.unary_unary("/t.S/Wait"), b"pinged", timeout=3)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, (code, details)
    states = []
    channel.subscribe(states.append)
    time.sleep(2)
    assert channel.unary_unary("/t.S/Echo")(b"x", timeout=PATIENCE) == b"x"
    assert set(states) == {grpc.ChannelConnectivity.READY}, states


def call(address, tls_address, ca):
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    named = [("grpc.ssl_target_name_override", "gate.test")]
    pings = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    channels = {
        "clear": lambda options: grpc.insecure_channel(address, options),
        "tls": lambda options: grpc.secure_channel(tls_address, credentials, named + options),
    }
    failed = False
    for kind, open_channel in channels.items():
        for case in (unary, streams, failures, limits, cancel, at_once, keepalive):
            with open_channel(pings if case is keepalive else []) as channel:
                try:
                    case(channel)
                except (AssertionError, grpc.RpcError) as error:
                    failed = True
                    print(f"{case.__name__} over {kind}: {error!r}")
    sys.exit(failed)


if sys.argv[1] == "serve":
    serve()
else:
    call(*sys.argv[2:])
