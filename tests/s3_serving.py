"""An S3 server on this machine's loopback (moto's), behind a door that answers 503 on request."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Door:
    """What stands between a client and the server.

    share     of the requests, evenly, that are answered with 503 without being done
    closed    while set, all are
    """

    address: str
    share: float = 0.0
    closed: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    refused: int = 0

    def uri(self, bucket: str, folder: str) -> str:
        """A folder of a bucket, as harvester takes it."""
        return f"s3://{bucket}/{folder}?region=us-east-1&scheme=http&endpoint_override={self.address}"

    def lets_in(self) -> bool:
        """Whether the next request is done."""
        self.asked += 1
        shut = self.closed.is_set() or int(self.asked * self.share) > int((self.asked - 1) * self.share)
        self.refused += shut
        return not shut


@contextmanager
def serving(*buckets: str) -> Iterator[Door]:
    """A running server with these buckets; KEYS are in the environment meanwhile."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    door = Door("")
    app = behind(door, DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    door.address = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    try:
        client = boto3.client("s3", endpoint_url=f"http://{door.address}", region_name="us-east-1")
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield door
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.shutdown()
        server.server_close()


def behind(door: Door, app: Callable[..., Any]) -> Callable[..., Any]:
    """The WSGI application as the door lets one reach it."""

    from werkzeug.wsgi import get_input_stream

    def asked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if door.lets_in():
            return app(environ, start_response)
        get_input_stream(environ).read()
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [SLOW_DOWN]

    return asked
