"""wait_for_rpc URL WORKERS SECONDS QUEUE…: until every RPC worker consumes from the queues."""
import sys
import time
import urllib.parse

import amqp

url, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
broker = urllib.parse.urlsplit(url)
end = time.monotonic() + seconds
while True:
    try:
        with amqp.Connection(
            f"{broker.hostname}:{broker.port}",
            userid=broker.username,
            password=broker.password,
            virtual_host=urllib.parse.unquote(broker.path[1:]),
        ) as connection:
            channel = connection.channel()
            found = [channel.queue_declare(queue, passive=True) for queue in sys.argv[4:]]
            reason = f"consumers: {[tuple(queue) for queue in found]}"
            if all(queue.consumer_count >= workers for queue in found):
                break
    except (amqp.exceptions.NotFound, OSError) as error:
        reason = repr(error)
    if time.monotonic() > end:
        sys.exit(reason)
    time.sleep(0.1)
