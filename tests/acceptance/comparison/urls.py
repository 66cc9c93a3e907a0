from django.conf.urls.i18n import i18n_patterns
from django.urls import include, path, re_path
from django.views.i18n import JavaScriptCatalog, set_language
from rest_framework.routers import SimpleRouter

from tests.acceptance.comparison import visits
from tests.acceptance.comparison.views import accounts, answers, decorated, ninja_api, rest, seen

handler400 = "tests.acceptance.comparison.views.answers.handler400"
handler403 = "tests.acceptance.comparison.views.answers.handler403"
handler404 = "tests.acceptance.comparison.views.answers.handler404"
handler500 = "tests.acceptance.comparison.views.answers.handler500"

router = SimpleRouter()
router.register("notes", rest.NoteSet)

urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("arrive/", visits.arrive),
    path("leave/", visits.leave),
    # What views see
    path("echo/", seen.echo, name="echo"),
    path("echo/<str:name>/", seen.echo, name="echo-name"),
    path("echo-path/<path:name>", seen.echo),
    re_path(r"^echo-re/(?P<name>\d+)/$", seen.echo),
    path("body/", seen.echo_body),
    path("read/", seen.read_stream),
    path("encoding/", seen.other_encoding),
    path("mirror/", seen.mirror),
    path("aecho/", seen.aecho),
    path("note/", seen.note),
    path("number/", seen.number),
    # What they answer
    path("status/<int:code>/", answers.status),
    path("answer/<slug:case>/", answers.body),
    path("fields/<slug:case>/", answers.fields),
    path("cookies/partitioned/", answers.partitioned_cookie),
    path("cookies/delete/", answers.delete_cookies),
    path("cookies/signed/", answers.signed_cookie),
    path("cookies/<slug:case>/", answers.cookies),
    path("stream/<slug:case>/", answers.stream),
    path("astream/", answers.astream),
    path("keep/", answers.keep_upload),
    path("redirect/<int:code>/<slug:case>/", answers.redirected),
    path("shortcut/<slug:case>/", answers.shortcut),
    path("error/<slug:case>/", answers.error),
    path("missing-row/", answers.missing_row),
    path("no-response/", answers.no_response),
    path("after-writing/", answers.after_writing),
    path("failing-after-writing/", answers.failing_after_writing),
    path("kind/<slug:case>/", answers.kind),
    path("page/", answers.page),
    path("form/", answers.form_page),
    path("protected/", answers.protected),
    # Who asks
    path("act/<slug:case>/", accounts.act),
    path("fail-after-session/", accounts.fail_after_session),
    path("log-in-page/", accounts.log_in_page),
    path("bad-log-in/", accounts.bad_log_in),
    path("alog-in/", accounts.alog_in),
    path("messages/add/", accounts.add_messages),
    path("messages/many/", accounts.many_messages),
    path("messages/read/", accounts.read_messages),
    path("activate/", accounts.activate),
    path("mail/", accounts.mail),
    path("count/", accounts.count),
    path("set-language/", set_language),
    path("catalog/", JavaScriptCatalog.as_view()),
    # How it is written
    *[path(f"decorated/{name}/", view) for name, view in decorated.DECORATED.items()],
    path("class/methods/", decorated.Methods.as_view()),
    path("class/async/", decorated.Async.as_view()),
    path("class/page/", decorated.Page.as_view()),
    path("class/away/<str:name>/", decorated.Away.as_view()),
    path("class/notes/", decorated.Notes.as_view()),
    path("class/new/", decorated.New.as_view()),
    # Frameworks
    path("rest/public/", rest.Public.as_view()),
    path("rest/private/", rest.Private.as_view()),
    path("rest/by-token/", rest.ByToken.as_view()),
    path("rest/by-session/", rest.BySession.as_view()),
    path("rest/staff/", rest.ForStaff.as_view()),
    path("rest/throttled/", rest.Throttled.as_view()),
    path("rest/set-up/<str:shop>/", rest.SetUp.as_view()),
    path("rest/versioned/", rest.Versioned.as_view()),
    path("rest/upload/<str:filename>/", rest.Upload.as_view()),
    path("rest/browsable/", rest.Browsable.as_view()),
    path("rest/pages/", rest.NotePages.as_view()),
    path("rest/function/", rest.function),
    path("rest/html/", rest.html),
    path("rest/error/<slug:case>/", rest.error),
    path("rest/wrapped/", rest.plain_request),
    path("rest/set/", include(router.urls)),
    path("ninja/", ninja_api.api.urls),
]
urlpatterns += i18n_patterns(path("localized/", answers.page))
