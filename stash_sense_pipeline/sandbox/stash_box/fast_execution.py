"""Executes bulk queries without graphql-core's cost per field, with equal results.

A query is compiled once into nested functions over the getters that graphql-core gets as resolvers. Queries with
directives, introspection, unions or fields that can fail are executed by graphql-core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    is_leaf_type,
)
from graphql.execution.values import get_argument_values

Getter = Callable[[Any], Any]
Getters = Mapping[str, Mapping[str, Getter]]
RootResolver = Callable[[Any, Mapping[str, Any]], Any]


class _NotSimple(Exception):  # noqa: N818
    """The query has something that only graphql-core executes."""


@dataclass(frozen=True)
class _Root:
    key: str
    field: GraphQLField
    node: FieldNode
    resolve: RootResolver
    complete: Getter
    nullable: bool


@dataclass(frozen=True)
class Plan:
    """A compiled query operation."""

    roots: Sequence[_Root]

    def execute(
        self, context: Any, variables: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, list[GraphQLError]]:
        """Data and errors, equal to those of graphql-core. `variables` are coerced."""
        data: dict[str, Any] = {}
        errors: list[GraphQLError] = []
        for root in self.roots:
            try:
                arguments = get_argument_values(root.field, root.node, variables)
                value = root.resolve(context, arguments)
                data[root.key] = None if value is None else root.complete(value)
            except GraphQLError as error:
                errors.append(GraphQLError(error.message, root.node, path=[root.key], original_error=error))
                if not root.nullable:
                    return None, errors
                data[root.key] = None
        return data, errors


def compile_plan(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    getters: Getters,
    root_resolvers: Mapping[str, RootResolver],
) -> Plan | None:
    """The plan of a valid operation; None when a root field is not in `root_resolvers`, or only graphql-core executes it."""
    assert schema.query_type is not None
    fragments = {
        node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
    }
    compiler = _Compiler(fragments, getters)
    try:
        return Plan(
            [
                compiler.root(key, nodes, schema.query_type, root_resolvers)
                for key, nodes in compiler.collect(schema.query_type, [operation.selection_set]).items()
            ]
        )
    except _NotSimple:
        return None


class _Compiler:
    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode], getters: Getters) -> None:
        self._fragments = fragments
        self._getters = getters

    def root(
        self,
        key: str,
        nodes: list[FieldNode],
        query: GraphQLObjectType,
        resolvers: Mapping[str, RootResolver],
    ) -> _Root:
        name = nodes[0].name.value
        if name not in resolvers:
            raise _NotSimple
        field = query.fields[name]
        return _Root(
            key=key,
            field=field,
            node=nodes[0],
            resolve=resolvers[name],
            complete=self._completion(field.type, nodes),
            nullable=not isinstance(field.type, GraphQLNonNull),
        )

    def collect(
        self, parent: GraphQLObjectType, selections: Sequence[SelectionSetNode]
    ) -> dict[str, list[FieldNode]]:
        """The fields of an object by response key, in order, with fragments expanded."""
        found: dict[str, list[FieldNode]] = {}
        for selection_set in selections:
            for node in selection_set.selections:
                if node.directives:
                    raise _NotSimple
                if isinstance(node, FieldNode):
                    key = node.alias.value if node.alias else node.name.value
                    found.setdefault(key, []).append(node)
                    continue
                if isinstance(node, FragmentSpreadNode):
                    fragment: FragmentDefinitionNode | InlineFragmentNode = self._fragments[node.name.value]
                elif isinstance(node, InlineFragmentNode):
                    fragment = node
                else:
                    raise _NotSimple
                condition = fragment.type_condition
                if condition is not None and condition.name.value != parent.name:
                    raise _NotSimple
                for key, nodes in self.collect(parent, [fragment.selection_set]).items():
                    found.setdefault(key, []).extend(nodes)
        return found

    def _object(self, parent: GraphQLObjectType, nodes: Sequence[FieldNode]) -> Getter:
        selections = [node.selection_set for node in nodes if node.selection_set is not None]
        fields = [
            (key, self._field(parent, group)) for key, group in self.collect(parent, selections).items()
        ]

        def project(value: Any) -> dict[str, Any]:
            return {key: get(value) for key, get in fields}

        return project

    def _field(self, parent: GraphQLObjectType, nodes: list[FieldNode]) -> Getter:
        name = nodes[0].name.value
        if name == "__typename":
            return lambda _: parent.name
        if name not in self._getters.get(parent.name, {}):
            raise _NotSimple
        get = self._getters[parent.name][name]
        field_type = parent.fields[name].type
        bare = field_type.of_type if isinstance(field_type, GraphQLNonNull) else field_type
        if is_leaf_type(bare):
            return get
        complete = self._completion(field_type, nodes)

        def get_completed(value: Any) -> Any:
            got = get(value)
            return None if got is None else complete(got)

        return get_completed

    def _completion(self, output: GraphQLOutputType, nodes: Sequence[FieldNode]) -> Getter:
        """Turns a value that is not None into its JSON form."""
        bare = output.of_type if isinstance(output, GraphQLNonNull) else output
        if isinstance(bare, GraphQLObjectType):
            return self._object(bare, nodes)
        if isinstance(bare, GraphQLList):
            item = bare.of_type.of_type if isinstance(bare.of_type, GraphQLNonNull) else bare.of_type
            if is_leaf_type(item):
                return list
            each = self._completion(item, nodes)
            return lambda values: [each(value) for value in values]
        if is_leaf_type(bare):
            return lambda value: value
        raise _NotSimple
