"""The pages: routes of a Starlette application over a folder of labels (docs/labelling.md)."""

import functools
import hashlib
import sqlite3
from collections.abc import Callable, Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from rlhf_jax.labelling import export, forms, owner, shown, words
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.forms import Form, FormError
from rlhf_jax.labelling.guard import Guard
from rlhf_jax.labelling.people import SESSION, People, Person, form_token, is_form_token
from rlhf_jax.labelling.store import Assignment, Conflict, Missing, Store

HERE = Path(__file__).parent
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
         ".png": "image/png"}  # fmt: skip
TITLES = {"rank": "Rank the outputs", "demonstrate": "Write a response", "write": "Write a prompt"}
AGAIN = "Nothing was stored for this form: "
ERRORS = {
    400: "The request cannot be read.",
    404: "There is no such page.",
    405: "This page does not answer such a request.",
}


class Visit(NamedTuple):
    """A request of somebody. person: None: nobody has signed in. form: {} of a GET."""

    request: Request
    person: Person | None
    session: str
    form: Form


Page = Callable[[Visit], Response]


class Refused(Exception):
    """A request that is answered with a message. again: whether going on to / makes sense."""

    def __init__(self, status: int, message: str, again: bool = True):
        super().__init__(message)
        self.status, self.again = status, again


def make_app(database: Database, origins: Collection[str]) -> Guard:
    """The ASGI application of a database.

    origins: the addresses under which browsers open it, such as http://127.0.0.1:8080; requests
    with another Host, and forms with another Origin, are refused. Cookies are for https alone where
    all origins are.
    """
    site = Site(database, secure=all(origin.startswith("https:") for origin in origins))
    return Guard(site.application(), origins, site.message)


class Site:
    """The routes, over the stores of one database."""

    def __init__(self, database: Database, secure: bool):
        self.store, self.people = Store(database), People(database)
        self._secure = secure
        # Browsers send a cookie to every port of a host, so each folder of labels has its own name.
        folder = hashlib.sha256(bytes(database.path.resolve())).hexdigest()[:8]
        self._cookie = f"{'__Host-' if secure else ''}session-{folder}"
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # Read once: no path that a client sends reaches the file system.
        self._static = {
            file.name: (file.read_bytes(), KINDS[file.suffix])
            for file in sorted((HERE / "static").iterdir())
            if file.suffix in KINDS
        }

    def application(self) -> Starlette:
        signed = functools.partial(self._route, signed=True)
        owners = functools.partial(self._route, signed=True, owner=True)
        return Starlette(
            routes=[
                signed("/", self.next_item),
                self._route("/enter", self.enter_page),
                self._route("/enter", self.enter, "POST"),
                signed("/leave", self.leave, "POST"),
                signed("/consent", self.consent_page),
                signed("/consent", self.consent, "POST"),
                signed("/answer", self.answer, "POST"),
                signed("/skip", self.skip, "POST"),
                signed("/undo", self.undo, "POST"),
                owners("/owner", self.owner_page),
                owners("/owner/export/{name}", self.download),
                self._route("/static/{name}", self.static),
            ],
            exception_handlers={HTTPException: self._http_error, Exception: self._broken},
        )

    def _route(
        self, path: str, page: Page, method: str = "GET", signed: bool = False, owner: bool = False
    ) -> Route:
        """A page as a route. It runs in a thread, because it waits for the disk."""

        async def endpoint(request: Request) -> Response:
            body = await request.body() if method == "POST" else b""
            return await run_in_threadpool(self._visit, request, body, page, signed, owner)

        return Route(path, endpoint, methods=[method])

    def _visit(
        self, request: Request, body: bytes, page: Page, signed: bool, owner: bool
    ) -> Response:
        try:
            session = request.cookies.get(self._cookie, "")
            person = self.people.of_session(session) if session else None
            form = forms.parse(body) if request.method == "POST" else {}
            visit = Visit(request, person, session, form)
            if signed and person is None and request.method != "POST":
                return _to("/enter")
            if signed and person is None:
                raise Refused(401, AGAIN + "you have signed out.")
            if owner and not person.owner:
                raise Refused(403, "This page is the owner's.")
            forged = lambda: not is_form_token(session, forms.one(form, "csrf", ""))
            if signed and request.method == "POST" and forged():
                raise Refused(403, AGAIN + "it is not of your session.")
            return page(visit)
        except FormError as error:
            return self._message(error.status, AGAIN + str(error), True)
        except Refused as error:
            return self._message(error.status, str(error), error.again)
        except Missing:
            return self._message(404, AGAIN + "it is of no item that you have before you.", True)
        except Conflict:
            told = "you have answered its item already. Undo shows it again."
            return self._message(409, AGAIN + told, True)
        except sqlite3.IntegrityError:  # since the session was looked up
            return self._message(401, AGAIN + "its labeler has been deleted.", True)
        except sqlite3.OperationalError as error:  # the disk is full, or the file is locked
            return self._message(503, f"{AGAIN}{error}. Try it again.", True)

    # Signing in

    def enter_page(self, visit: Visit) -> Response:
        return self._enter_page(visit, None, 200)

    def _enter_page(self, visit: Visit, problem: str | None, status: int) -> Response:
        local = self.people.is_local()
        return self._page("enter.html", "Sign in", visit, status, problem=problem, local=local)

    def enter(self, visit: Visit) -> Response:
        forms.refuse_others(visit.form, ("token", "csrf"))
        token = None if "token" not in visit.form else forms.one(visit.form, "token").strip()
        session = self.people.enter(token)
        if session is None:
            told = "This token is not known. Ask the owner of the page for another."
            return self._enter_page(visit, told, 401)
        response = _to("/")
        response.set_cookie(
            self._cookie, session, int(SESSION), path="/", secure=self._secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return response

    def leave(self, visit: Visit) -> Response:
        self.people.leave(visit.session)
        response = _to("/enter")
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True)
        return response

    def consent_page(self, visit: Visit) -> Response:
        return self._page(
            "consent.html", "Before you begin", visit, consent=words.CONSENT,
            warning=words.WARNING, agreed=visit.person.consented,
        )  # fmt: skip

    def consent(self, visit: Visit) -> Response:
        forms.refuse_others(visit.form, ("csrf", "agree"))
        if forms.one(visit.form, "agree", "") != "yes":
            raise FormError("Tick the box if you agree; if not, close the page.")
        self.people.consent(visit.person.name)
        return _to("/")

    # Labelling

    def next_item(self, visit: Visit) -> Response:
        if not visit.person.labels:
            return _to("/owner")
        if not visit.person.consented:
            return _to("/consent")
        found = self.store.next(visit.person.name)
        if found is None:
            made = shown.progress(self.store.progress(visit.person.name))
            return self._page("done.html", "Nothing is left", visit, progress=made)
        return self._item_page(visit, found)

    def _item_page(
        self, visit: Visit, found: Assignment, problem: FormError | None = None
    ) -> Response:
        name, task = visit.person.name, found.item.task
        made, worked = self.store.progress(name), self.store.worked(name, shown.BREAK)
        typed = None
        if problem is not None:
            typed = forms.typed(visit.form, task, len(found.item.outputs))
        return self._page(
            f"{task}.html", TITLES[task], visit, 200 if problem is None else problem.status,
            item=shown.item(found, 1 + made.done + made.skipped, typed),
            progress=shown.progress(made, worked),
            problem=None if problem is None else str(problem),
            problem_field=None if problem is None else problem.field,
            skip=forms.typed_skip(visit.form),
            flags=words.FLAGS,
            scale=words.SCALE,
            skip_reasons=words.SKIP_REASONS,
            break_due=worked > shown.BREAK_AFTER,
            limits={"text": forms.MOST_TEXT, "detail": forms.MOST_DETAIL},
        )  # fmt: skip

    def _asked(self, visit: Visit) -> Assignment:
        if not visit.person.consented:
            raise Refused(403, AGAIN + "read the consent text first.")
        return self.store.of(visit.person.name, forms.one(visit.form, "assignment"))

    def _store(self, visit: Visit, state: str, read: Callable[[Assignment], dict]) -> Response:
        """Stores what `read` makes of the form, then goes on to the next item. A form that can be
        mended is shown again as it was typed."""
        asked, seconds = self._asked(visit), forms.seconds_of(visit.form)
        try:
            content = read(asked)
        except FormError as error:
            if error.status != 422:
                raise
            return self._item_page(visit, asked, error)
        self.store.answer(visit.person.name, asked.id, state, content, seconds)
        return _to("/")

    def answer(self, visit: Visit) -> Response:
        read = lambda asked: forms.answer_of(visit.form, asked.item, asked.places)
        return self._store(visit, "answered", read)

    def skip(self, visit: Visit) -> Response:
        return self._store(visit, "skipped", lambda asked: forms.skip_of(visit.form))

    def undo(self, visit: Visit) -> Response:
        forms.refuse_others(visit.form, ("csrf",))
        if not self.store.undo(visit.person.name):
            raise Refused(409, "You have answered nothing yet.")
        return _to("/")

    # The owner

    def owner_page(self, visit: Visit) -> Response:
        found = owner.overview(self.store.database)
        return self._page("owner.html", "Labels", visit, owner=found)

    def download(self, visit: Visit) -> Response:
        name = visit.request.path_params["name"]
        if name not in export.FILES:
            raise Refused(404, ERRORS[404])
        content = export.files(self.store.database).content.get(name, b"")
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def static(self, visit: Visit) -> Response:
        found = self._static.get(visit.request.path_params["name"])
        if found is None:
            raise Refused(404, ERRORS[404])
        content, kind = found
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    # Pages

    def _page(
        self, template: str, title: str, visit: Visit | None, status: int = 200, **context: Any
    ) -> HTMLResponse:
        person = None if visit is None else visit.person
        context |= {
            "title": title,
            "labeler": None if person is None else person.name,
            "is_owner": person is not None and person.owner,
            "csrf": "" if person is None else form_token(visit.session),
            "status": status,
        }
        return HTMLResponse(self._templates.get_template(template).render(context), status)

    def _message(self, status: int, message: str, again: bool) -> HTMLResponse:
        title = f"{status} {HTTPStatus(status).phrase}"
        return self._page("message.html", title, None, status, message=message, retry=again)

    def message(self, status: int, message: str) -> HTMLResponse:
        """The response to a request that no route sees."""
        return self._message(status, message, again=False)

    def _http_error(self, request: Request, error: HTTPException) -> HTMLResponse:
        told = ERRORS.get(error.status_code, "The request cannot be answered.")
        return self._message(error.status_code, told, again=True)

    def _broken(self, request: Request, error: Exception) -> HTMLResponse:
        return self._message(500, "The server has an error, which its log tells.", again=True)


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
