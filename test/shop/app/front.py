"""The shop's front end: takes orders, and reports what has been sold."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import places

with open("/srv/version") as f:
    VERSION = f.read().strip()


def order(item, count):
    """Writes an order down, and puts it into the queue."""
    with places.users() as db, db.cursor() as c:
        c.execute("INSERT INTO orders (item, count) VALUES (%s, %s) RETURNING id", (item, count))
        number = c.fetchone()[0]
    db.close()
    places.queue().rpush("orders", number)
    return number


def orders():
    with places.users() as db, db.cursor() as c:
        c.execute("SELECT id, item, count FROM orders ORDER BY id")
        found = c.fetchall()
    db.close()
    return found


def report():
    db = places.analytics()
    with db.cursor() as c:
        c.execute("SELECT item, SUM(count) FROM sold GROUP BY item ORDER BY item")
        found = c.fetchall()
    db.close()
    return found


class Front(BaseHTTPRequestHandler):
    server_version = "shop/" + VERSION

    def do_GET(self):
        self.answer({"/api/version": lambda: VERSION, "/api/orders": orders, "/api/report": report}.get(self.path))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer((lambda: order(asked["item"], asked["count"])) if self.path == "/api/orders" else None)

    def answer(self, find):
        status, body = 404, "there is nothing here"
        if find:
            try:
                status, body = 200, find()
            except places.AWAY as why:
                status, body = 503, str(why)
        body = json.dumps(body, default=int).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def tables():
    with places.users() as db, db.cursor() as c:
        c.execute("CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, item text NOT NULL, count int NOT NULL)")
    db.close()


places.patiently(tables)
places.patiently(places.queue().ping)
print("front end", VERSION, "is ready")
ThreadingHTTPServer(("", 8000), Front).serve_forever()
