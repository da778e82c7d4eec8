"""Where the other services of the shop are: by name, on its network. They all start at once, so whoever is early waits."""

import os
import time

import psycopg2
import pymysql
import redis

PASSWORD = os.environ["PASSWORD"]


def users():
    """The database of the shop's users and their orders."""
    return psycopg2.connect(host="users", user="shop", dbname="shop", password=PASSWORD, connect_timeout=3)


def analytics():
    """What has been sold."""
    return pymysql.connect(host="analytics", user="shop", database="shop", password=PASSWORD, connect_timeout=3, read_timeout=5)


def queue():
    """Orders for the worker, by number. What is lost on the way is noticed after some seconds, not after TCP's minutes."""
    return redis.Redis(host="queue", socket_connect_timeout=3, socket_timeout=5, decode_responses=True)


AWAY = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    pymysql.OperationalError,
    pymysql.InterfaceError,
    redis.ConnectionError,
    redis.TimeoutError,
)


def patiently(do, *args):
    """Does it, again and again while a service is away."""
    said = None
    while True:
        try:
            return do(*args)
        except AWAY as why:
            if str(why) != said:
                said = str(why)
                print("waiting:", said.strip().replace("\n", " "))
            time.sleep(0.1)
