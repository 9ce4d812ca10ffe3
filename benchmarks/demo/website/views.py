"""A page with buttons that send messages, and with the progress of their tasks."""

from django.contrib.auth import get_user_model, login
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from benchmarks.demo.project import tasks
from benchmarks.demo.website import users
from taskstate.models import Task

REPORT_SECONDS = 10.0
RETRY_MS = 5000


def send_report(state):
    """Send a message whose actor takes several seconds."""
    return tasks.report.send(REPORT_SECONDS, for_state=state)


def send_mail(state):
    """Send a message whose actor fails once and then succeeds."""
    return tasks.fail_once.send_with_options(
        args=(1,), kwargs={"for_state": state}, min_backoff=RETRY_MS, max_backoff=RETRY_MS
    )


def charge(state):
    """Send a message whose actor fails."""
    return tasks.fail_for_good.send(for_state=state)


#: The label of each button, and the function that sends its message.
BUTTONS = {
    "report": ("Make a report", send_report),
    "mail": ("Send a mail, with one retry", send_mail),
    "charge": ("Charge a card that is declined", charge),
}
LOOPBACK = ("127.0.0.1", "::1")
#: How many tasks of this session are shown, and how many other tasks.
SHOWN = 5


@login_required
def index(request):
    """Show the buttons, the tasks that they started in this session, and other tasks of the user:
    the active ones, or the newest if no task is active."""
    started = request.session.get("started", [])
    others = Task.objects.for_user(request.user).exclude(pk__in=[pk for pk, _ in started])
    context = {
        "buttons": {name: label for name, (label, _) in BUTTONS.items()},
        "started": started,
        "others": others.active()[:SHOWN] or others[:SHOWN],
        "names": users.NAMES,
    }
    return render(request, "website/index.html", context)


@require_POST
@login_required
def start(request):
    """Send the message of a button on behalf of the signed-in user."""
    button = BUTTONS.get(request.POST.get("button"))
    if button is None:
        return HttpResponseBadRequest(
            f"Unknown button. The buttons are {', '.join(BUTTONS)}.", content_type="text/plain"
        )
    label, send = button
    message = send({"user_pk": request.user.pk, "description": label})
    started = [[message.message_id, label], *request.session.get("started", [])]
    request.session["started"] = started[:SHOWN]
    return redirect("index")


def sign_in(request, name):
    """Sign a user in without a password, for requests from this machine only."""
    if request.META["REMOTE_ADDR"] not in LOOPBACK:
        raise Http404
    user = get_object_or_404(get_user_model(), username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    url = request.GET.get("next", "")
    is_local = url_has_allowed_host_and_scheme(url, allowed_hosts=None)
    return redirect(url if is_local else "index")


def no_icon(request):
    """Answer a browser's request for an icon: there is none."""
    return HttpResponse(status=204)
