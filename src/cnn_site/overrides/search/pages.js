{#- What the search knows of a page besides its text: other names and the sentence, from the front matter; read by assets/search.js.
    A build of changed pages only (serve --dirty) holds only those. -#}
{%- macro told(text) %}{{ text | replace("&", "&amp;") | replace("<", "&lt;") | tojson }}{% endmacro -%}
self.pages = {
{%- for file in pages if file.page and not (file.page.meta.search or {}).exclude %}
{{ file.page.url | tojson }}: {"aliases": {{ told((file.page.meta.aliases or []) | join(", ")) }}, "about": {{ told(file.page.meta.description or "") }}},
{%- endfor %}
};
