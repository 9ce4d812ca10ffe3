"""The rows that there must be, by what was sent alone."""

#: How a message of each kind ends: status and attempt.
ENDS = {"succeed": ("done", 1), "fail_once": ("done", 2), "fail_for_good": ("failed", 1)}

QUERY = (
    "SELECT message_id, status, attempt, queue_name, enqueued_at, started_at, finished_at,"
    " updated_at FROM taskstate_task"
)


class Expected:
    """What was sent, against the table of a private server.

    Parameters:
      server(PrivateServer): The server itself, by no proxy and no pool.
      queue(str): Where the messages were sent to.
    """

    def __init__(self, server, database, queue):
        self._server = server
        self._database = database
        self._queue = queue
        self.ends = {}

    def note(self, sent):
        """Note messages that were sent: a list of ids for each kind."""
        for kind, ids in sent.items():
            self.ends.update(dict.fromkeys(map(_hex, ids), ENDS[kind]))

    def rows(self):
        """Return the rows by their hexadecimal ids."""
        return {_hex(row[0]): row[1:] for row in self._server.execute(QUERY, self._database)}

    def faults(self, rows=None):
        """Return what is wrong with the rows, one sentence each."""
        rows = self.rows() if rows is None else rows
        found = [f"{key} is missing" for key in self.ends.keys() - rows.keys()]
        found += [f"{key} was never sent" for key in rows.keys() - self.ends.keys()]
        for key in self.ends.keys() & rows.keys():
            status, attempt, queue, enqueued, started, finished, updated = rows[key]
            if (status, attempt, queue) != (*self.ends[key], self._queue):
                found.append(f"{key} is {status}, attempt {attempt}, on {queue}: {self.ends[key]}")
            elif not enqueued <= started <= finished == updated:
                found.append(f"{key}: {enqueued}, {started}, {finished}, {updated}")
        return found


def _hex(message_id):
    return str(message_id).replace("-", "")
