"""Writes cases.json: what HF's way of running Jinja2 makes of templates. Needs `pip install jinja2`.

The templates are written for this test, in the manner of those that models bring; the snippets go over the language.
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """HF's `{% generation %}`: a scope that writes its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = lambda form: datetime.datetime(2026, 7, 4).strftime(form)

CONVERSATIONS = {
    "plain": [("user", "Hello there!")],
    "system": [("system", " Be kind.\n"), ("user", "Hi")],
    "turns": [("user", "one"), ("assistant", "two"), ("user", "  three\n"), ("assistant", ""), ("user", "five")],
    "thoughts": [("user", "q"), ("assistant", "<think>\nreason\n</think>\n\nanswer"), ("user", "안녕 👋 \"it's\" & <b>\r\nß\u00a0")],
    "odd": [("user", "a"), ("user", "b")],
    "none": [],
}

TEMPLATES = [
    # ChatML with a default system message
    """{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}
{% for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m['content'] | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    # headers, the date, and a macro
    """{{- bos_token }}
{%- macro header(role) %}{{ '<|header|>' ~ role ~ '<|end_header|>\\n\\n' }}{% endmacro %}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{%- set system = messages[0]['content'] | trim if messages and messages[0].role == 'system' else '' %}
{%- if system %}{% set messages = messages[1:] %}{%- endif %}
{{- header('system') }}Today: {{ date_string }}
{% if tools is not none and tools %}
    {{- tools | tojson(indent=4) }}
{% endif %}
{{- system }}<|eot|>
{%- for message in messages %}
    {{- header(message['role']) + message.content | trim + '<|eot|>' }}
{%- endfor %}
{{- header('assistant') if add_generation_prompt }}""",
    # strict alternation
    """{{ bos_token }}{% set ns = namespace(index=0, system=none) %}
{%- for message in messages -%}
    {%- if message.role == 'system' and loop.first -%}
        {%- set ns.system = message.content -%}
        {%- continue -%}
    {%- endif -%}
    {%- if (message['role'] == 'user') != (ns.index % 2 == 0) -%}
        {{ raise_exception('roles must alternate user/assistant/user/...: ' ~ message.role ~ ' at ' ~ loop.index0) }}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        [INST] {{ ns.system ~ '\\n\\n' if ns.system is not none and ns.index == 0 }}{{ message['content'] }} [/INST]
    {%- else -%}
        {{ ' ' + message.content + eos_token }}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
{%- endfor -%}""",
    # turns, the system message in the first of them
    """{%- set first = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set first = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}
        {{ raise_exception('no content') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}""",
    # thoughts: kept in the last turn alone
    """{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.thought is defined and message.thought is string %}
            {%- set thought = message.thought %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {% generation %}
        {{- '<|' + message.role + '|>' + (('<think>' ~ thought.strip('\\n') ~ '</think>') if loop.index0 > ns.last or (loop.last and thought)) + content }}
        {% endgeneration %}
    {%- else %}
        {{- '<|' ~ message.role ~ '|>' ~ content }}
    {%- endif %}
{%- endfor %}""",
]

# A snippet a line; ⏎ stands for the end of a line in it.
SNIPPETS = r"""
{{ 1 }} {{ 1.0 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 123456789.125 }} {{ true }} {{ none }} {{ nope }} {{ 'a' 'b' }}
{{ [1, 'a', "it's", none, (1,), (1, 2), {'k': [1.5, true]}] }}
{{ 'tab\t"q"' }} {{ ['tab\t"q"', "it's \"q\"", 'a\\b', '\n'] }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 'a' + 'b' ~ 1 ~ none ~ [1] }} {{ [1] + [2] }} {{ 'ab' * 3 }} {{ [0] * 2 }} {{ 1 + true }} {{ (1,) + (2,) }}
{{ 'a' + 1 }}
{{ 1 + none }}
{{ nope + 'a' }}
{{ nope.x }}
{{ nope['x'] }}
{{ messages[0].nope }} {{ messages[99] }} {{ none.x }} {{ 'abc'[5] }} {{ 'abc'.nope }}
{{ messages[0].nope.more }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 1 == 1.0 == true }} {{ [1] == [1] }} {{ {'a': 1} == {'a': 1} }} {{ 'a' != 1 }}
{{ 1 < 'a' }}
{{ 'a' in 'abc' }} {{ 1 in [1] }} {{ 'k' in {'k': 1} }} {{ 'x' not in [] }} {{ 'x' in nope }}
{{ 1 in 'abc' }}
{{ 1 in none }}
{{ 1 and 0 }} {{ '' or 'x' }} {{ none or nope }} {{ not '' }} {{ 1 and 'y' or 'z' }} {{ [] and 1 }}
{{ 'yes' if 1 }}{{ 'yes' if 0 }}{{ 'a' if 0 else 'b' if 0 else 'c' }}
{{ 'hello'[1] }} {{ 'hello'[-1] }} {{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ 'hello'[::2] }} {{ 'héllo'[-3:] }} {{ [1,2,3][1:] }} {{ (1,2,3)[:2] }}
{{ [1,2,3][::-1] }} {{ 'abc'[5:] }}| {{ 'abc'[2:1] }}|
{{ nope[1:] }}
{{ none[1:] }}
{{ '  x y '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ ' \u00a0\x1f z'.strip() }}|{{ 'xyaxy'.lstrip('yx') }}|{{ '\n a\n'.rstrip() }}|
{{ 'ab cd'|upper }} {{ 'AB'|lower }} {{ 'hello wORLD-foo (bar'|title }} {{ 'hELLO'|capitalize }} {{ 'ß'|upper }} {{ "it's o'neil".title() }}
{{ 'abc'|length }} {{ [1,2]|count }} {{ {'a':1}|length }} {{ nope|length }} {{ '안녕'|length }}
{{ 5|length }}
{{ nope|default('d') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|d('d') }} {{ nope|d }}|
{{ [1,2,3]|first }} {{ [1,2,3]|last }} {{ []|first }}| {{ 'abc'|first }} {{ 'abc'|last }}
{{ [1,'a',none]|join(', ') }} {{ 'abc'|join('-') }} {{ messages|join('|', attribute='role') }} {{ []|join }}|
{{ 'abc'|list }} {{ {'a':1,'b':2}|list }} {{ nope|list }}
{{ 'aXbX'|replace('X', '--') }} {{ 'aXbX'|replace('X', '-', 1) }} {{ 'abc'.replace('', '.') }} {{ 'aaa'.replace('a', 'b', 2) }}
{{ {'b': 1, 'a': [1, 2.5, none, true, 'é"\n\x01']}|tojson }}
{{ {'b': 1, 'a': {'c': []}, 'd': [], 'e': {}}|tojson(indent=2) }}
{{ {'b': 1, 'a': 'é😀'}|tojson(sort_keys=true, ensure_ascii=true) }} {{ [1,2]|tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4}|tojson }}
{{ messages|tojson }}
{{ nope|tojson }}
{% for k, v in {'a': 1, 'b': 2}|items %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}
{{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'a': 1, 'b': 2}|dictsort(reverse=true) }}
{{ messages|map(attribute='role')|list }} {{ ['a','b']|map('upper')|join }} {{ [1,2]|map('string')|list }} {{ [{}]|map(attribute='x', default='d')|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', 'eq', 'user')|list|length }} {{ [0,1,2]|select|list }} {{ [1,2,3]|select('odd')|list }} {{ [1,2,3]|reject('gt', 1)|list }}
{{ 'yes' if messages|selectattr('role', 'equalto', 'nobody') else 'no' }}
{{ messages|selectattr('role', 'in', ['system', 'tool'])|map(attribute='content')|list }}
{{ [3,1,2]|sort }} {{ ['b','A','c']|sort }} {{ [3,1,2]|sort(reverse=true) }} {{ messages|sort(attribute='content')|map(attribute='content')|list }} {{ ['b','A']|sort(case_sensitive=true) }}
{{ [1,2,1]|unique|list }} {{ ['a','A']|unique|list }} {{ [3,1]|min }} {{ [3,1]|max }} {{ ['b','A']|min }} {{ [1,2.5]|sum }} {{ [{'x':1},{'x':2}]|sum(attribute='x') }} {{ []|max }}|
{{ [1,2,3]|reverse|list }} {{ 'abc'|reverse }} {{ -3|abs }} {{ 2.5|round }} {{ 3.14159|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 7|round }}
{{ '12'|int }} {{ '12.9'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 3.9|int }} {{ '1.5'|float }} {{ none|int }} {{ true|int }} {{ 'x'|float }}
{{ 'a\nb\n\nc'|indent }}| {{ 'a\nb'|indent(2, true) }}| {{ 'a\n\nb'|indent(1, blank=true) }}| {{ 'a\nb'|indent('>') }}
{{ 5|string + 'x' }} {{ none|string }} {{ '<b>'|safe }} {{ [1]|string }}
{{ 1 is defined }} {{ nope is defined }} {{ nope is undefined }} {{ none is none }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ 1 is iterable }} {{ nope is iterable }} {{ {} is iterable }}
{{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is true }} {{ false is false }} {{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 'a' is in 'abc' }} {{ 2 is gt 1 }} {{ 'a' is lower }} {{ 'A' is upper }} {{ none is sameas none }}
{{ not 1 is string }} {{ 1 is not string and 2 is not none }} {{ range is callable }} {{ raise_exception is defined }} {{ documents is none }}
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.find('x') }} {{ 'héc'.find('c') }} {{ 'aab'.count('a') }} {{ 'abcabc'.rfind('b') }} {{ 'abc'.index('b') }}
{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'ab'.partition('x') }} {{ 'ab'.rpartition('x') }} {{ 'a\nb\r\nc\n'.splitlines() }}
{{ ','.join(['a', 'b']) }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'AB1'.isupper() }} {{ 'ab'.islower() }} {{ '1'.islower() }}
{{ '{} and {}'.format('a', 1) }} {{ '{1}{0}{x}'.format(1, 2, x=3) }} {{ '{{}}'.format() }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys()|list }} {{ {'a': 1}.values()|list }} {{ [1,2,1].count(1) }} {{ [1,2].index(2) }}
{{ [].append(1) }}
{{ {}.update({'a': 1}) }}
{{ 'x'.nope() }}
{{ nope() }}
{{ 'x'|nope }}
{{ 'x' is nope }}
{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = 'xy' %}{{ a }}{{ b }}
{% set a, b = [1, 2, 3] %}
{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns['x'] }}
{% set d = {} %}{% set d.x = 1 %}
{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x|length }}{% set y | upper | trim %} q {% endset %}{{ y }}
{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}{% for i in nope %}x{% else %}none{% endfor %}
{% for i in [1,2,3,4] if i is even %}{{ i }}{{ loop.length }}{{ loop.last }}{% endfor %}
{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for a in [1,2] %}{% for b in 'xy' %}{{ loop.index }}{{ a }}{{ b }}{{ loop.depth }} {% endfor %}{{ loop.index }}{% endfor %}
{% for a in [1,2] %}{% set outer = loop %}{% for b in [1,2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for c in 'añ' %}{{ c }}.{% endfor %}{% for a, b in [[1,2],[3,4]] %}{{ a }}-{{ b }} {% endfor %}
{% for x in [1,1,2] %}{{ loop.cycle('a','b') }}{{ loop.changed(x) }} {% endfor %}
{{ none|map('upper')|list }} {{ none|select|list }} {{ none|selectattr('a')|list }}
{{ none|list }}
{% for x in 5 %}{% endfor %}
{% macro f(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(1, c='z') }} {{ f() }} {{ f(c=1, a=2) }} {{ f('q')|upper }}
{% macro f(a) %}{% if a > 0 %}{{ a }}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(z=2) }}
{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}
{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}
{% macro f() %}<{{ caller(1, 2) }}>{% endmacro %}{% set z = 9 %}{% call(a, b) f() %}{{ a }}{{ b }}{{ z }}{% endcall %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|
{% filter upper %}abc{{ 'd' }}{% endfilter %}{% filter trim | upper %} x {% endfilter %}
{% raw %}{{ x }}{% if %}{% endraw %}{# comment {{ x }} #}after
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ dict(a=1, b='x') }} {{ range(0)|list }}
{{ raise_exception('because ' ~ 1) }}
{{ strftime_now('%Y-%m-%d %B %b %A %a %y %H:%M %%') }}
{{ f(*[1, 2], **{'a': 1}) }}
{{ dict(**{'a': 1}) }} {{ range(*[1, 3])|list }}
{% if nope %}a{% elif [] %}b{% elif {} %}c{% elif 0.0 %}d{% else %}e{% endif %}
   {% if true %}   ⏎   x⏎   {% endif %}⏎y⏎
a  {%- if true -%}  b  {%- endif -%}  c {{- ' d ' -}} e {#- f -#} g
a {%+ if true %} b {%+ endif %} c
{{ {'a': {'b': [10, 20]}}.a.b[1] }} {{ {'items': 1}['items'] }} {{ {'a b': 1}['a b'] }} {{ messages[0]['role'] }} {{ messages[-1].role }}
{{ messages[0] }}
{{ (1, 2) }} {{ (1) }} {{ () }} {{ [(1, 2)] }} {{ ((1,),) }}
{{ -1 }} {{ - 1 + 2 }}
{{ 2 * 3 + 4 ~ 'x' }} {{ 2 + 3 * 4 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 'a' ~ 'b' * 2 }} {{ not 1 == 2 }} {{ 1 + 2 ~ 3 + 4 }}
{{ 10 if 1 > 2 else 20 + 1 }} {{ (10 if true else 20) + 1 }}
{{ 'x' * 3 if 'a' in ['a'] and not ('b' in 'c') else '' }}
{{ "\u00e9\x41\t|\'" }} {{ '\\n' }} {{ '\n' }}|
{{ 1_000 }} {{ 0x1f }} {{ 1.5e3 }}
{{ True }} {{ False }} {{ None }} {{ true == True }}
{{ 3 | string | length }} {{ [[1, 2], [3]] | map('length') | list }} {{ [[1, 2], [3]] | map('first') | list }} {{ [1, [2]] | string }}
{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }} {{ [[5, 6]] | map(attribute=1) | list }}
{% set x = [] %}{% for m in messages %}{% set x = x + [m.role] %}{% endfor %}{{ x }}
{% generation %}a{% set q = 1 %}{% endgeneration %}{{ q }}b
{% for m in messages %}{{ m.role }}{{ ', ' if not loop.last }}{% endfor %}
""".strip("\n").split("\n")


def outcome(source, conversation):
    try:
        template = ENVIRONMENT.from_string(source)
        messages = [{"role": role, "content": content} for role, content in CONVERSATIONS[conversation]]
        text = template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        return {"text": text}
    except Raised as refusal:
        return {"refused": str(refusal)}
    except Exception as error:
        return {"error": type(error).__name__}


def main():
    cases = []
    for source in TEMPLATES:
        cases += [(source, name) for name in CONVERSATIONS]
    cases += [(source.replace("⏎", "\n"), "turns") for source in SNIPPETS]
    written = [{"template": source, "conversation": name, **outcome(source, name)} for source, name in cases]
    conversations = {n: [{"role": r, "content": c} for r, c in turns] for n, turns in CONVERSATIONS.items()}
    path = pathlib.Path(__file__).with_name("cases.json")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    path.write_text(f'{{"conversations": {json.dumps(conversations, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n')
    print(len(written), "cases")


if __name__ == "__main__":
    main()
