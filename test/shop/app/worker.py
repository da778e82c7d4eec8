"""The shop's worker: carries what has been ordered from the queue to the analytics."""

import places


def step():
    """Takes one order. It stays in a list of its own until it has been carried over, so that none is lost on the way."""
    queue = places.queue()
    number = queue.lindex("taken", 0) or queue.blmove("orders", "taken", 1)
    if number is None:
        return
    with places.users() as db, db.cursor() as c:
        c.execute("SELECT item, count FROM orders WHERE id = %s", (number,))
        item, count = c.fetchone()
    db.close()
    db = places.analytics()
    with db.cursor() as c:
        c.execute("INSERT IGNORE INTO sold (number, item, count) VALUES (%s, %s, %s)", (number, item, count))
    db.commit()
    db.close()
    queue.lrem("taken", 0, number)
    print(f"order {number}: {count} of {item}")


while True:
    places.patiently(step)
