"""One BitTorrent peer of the comparison, by libtorrent. Prints `ready`, waits for a line, prints `done` when it has everything,
and goes on to serve until its standard input ends.

usage: swarm.py make CONTENT TORRENT                              writes the torrent of a directory
       swarm.py seed|peer SETTINGS CONTENT TORRENT PORT [PEER…]   SETTINGS: default or best
"""

import sys
import threading
import time

import libtorrent as lt

PIECE = 256 * 1024

# Nobody but the peers that are named: all there is of a tracker is that everybody knows everybody.
ALONE = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.error_notification,
}

# What was found to be quickest for a burst on a fast and quiet network: TCP alone, everybody unchoked and known at once, no rate
# limits on connecting, rarest pieces from the first one on, few requests ahead, so that what is rare is decided late.
BEST = {
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "unchoke_slots_limit": -1,
    "connection_speed": 1000,
    "torrent_connect_boost": 255,
    "initial_picker_threshold": 0,
    "max_out_request_queue": 24,
    "request_queue_time": 1,
    "seed_choking_algorithm": lt.seed_choking_algorithm_t.round_robin,
    "send_buffer_watermark": 4 * PIECE,
    "send_buffer_low_watermark": PIECE,
    "strict_end_game_mode": False,
    "close_redundant_connections": False,
}


def make(content, torrent):
    files = lt.file_storage()
    lt.add_files(files, content)
    made = lt.create_torrent(files, PIECE, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, content.rsplit("/", 1)[0])
    with open(torrent, "wb") as out:
        out.write(lt.bencode(made.generate()))


def share(role, settings, content, torrent, port, peers):
    settings = {**ALONE, **(BEST if settings == "best" else {}), "listen_interfaces": f"0.0.0.0:{port}"}
    session = lt.session(settings)
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(torrent)
    wanted.save_path = content.rsplit("/", 1)[0]
    if role == "seed":
        wanted.flags |= lt.torrent_flags.seed_mode
    wanted.flags &= ~lt.torrent_flags.auto_managed
    wanted.flags |= lt.torrent_flags.paused
    torrent = session.add_torrent(wanted)
    print("ready", flush=True)
    sys.stdin.readline()
    torrent.resume()
    for peer in peers:
        torrent.connect_peer((peer, int(port)))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    told = role == "seed"
    while not over.is_set():
        if not told and torrent.status().is_seeding:
            print("done", flush=True)
            told = True
        time.sleep(0.02)


if sys.argv[1] == "make":
    make(*sys.argv[2:4])
else:
    share(*sys.argv[1:6], sys.argv[6:])
