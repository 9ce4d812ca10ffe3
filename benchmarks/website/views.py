"""A page with buttons that send messages, and shows what becomes of them."""

from django.contrib.auth import get_user_model, login
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from benchmarks.project import tasks
from benchmarks.website import users
from taskstate.models import Task

REPORT_SECONDS = 10.0
RETRY_MS = 5000


def send_report(state):
    """Send what takes a while."""
    return tasks.report.send(REPORT_SECONDS, for_state=state)


def send_mail(state):
    """Send what fails once."""
    return tasks.fail_once.send_with_options(
        args=(1,), kwargs={"for_state": state}, min_backoff=RETRY_MS, max_backoff=RETRY_MS
    )


def charge(state):
    """Send what fails."""
    return tasks.fail_for_good.send(for_state=state)


#: By the name of the button: what it says, and what it does.
BUTTONS = {
    "report": ("Make a report", send_report),
    "mail": ("Send a mail, at the second try", send_mail),
    "charge": ("Charge a card, in vain", charge),
}
LOOPBACK = ("127.0.0.1", "::1")
#: So many of the messages that were sent last are shown, and of others.
SHOWN = 5


@login_required
def index(request):
    """Show the buttons, the tasks that they started in this session, and others: those at work, or
    the newest, if none is."""
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
    """Send the message of a button for the signed-in user."""
    button = BUTTONS.get(request.POST.get("button"))
    if button is None:
        return HttpResponseBadRequest("There is no such button.")
    label, send = button
    message = send({"user_pk": request.user.pk, "description": label})
    started = [[message.message_id, label], *request.session.get("started", [])]
    request.session["started"] = started[:SHOWN]
    return redirect("index")


def sign_in(request, name):
    """Sign somebody in, without a password: only who sits at this machine may do so."""
    if request.META["REMOTE_ADDR"] not in LOOPBACK:
        raise Http404
    user = get_object_or_404(get_user_model(), username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    there = request.GET.get("next", "")
    is_here = url_has_allowed_host_and_scheme(there, allowed_hosts=None)
    return redirect(there if is_here else "index")


def no_icon(request):
    """Answer what every browser asks for."""
    return HttpResponse(status=204)
