/**
 * All that a run has left behind: what its plain cells and its steps logged, and what its steps made.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import type { IBinding, IExecution, IRunDetail } from '../api/schema';
import type { IContents } from '../model/contents';
import { counted } from '../model/format';
import type { ILogged } from '../model/logged';
import { isCode } from '../model/preview';
import { BindingCard, BindingCards, pythonCode } from './artifactcard';
import { itemName } from './execution';
import { Line, LinkButton, Problem } from './shared';
import { StateIcon } from './stateicon';

/** Artifacts of one step that are shown before more are asked for. */
const FEW = 24;

export interface IArtifactListProps {
  readonly detail: IRunDetail;
  readonly contents: IContents;
  readonly outputs: (key: string, outputs: ReadonlyArray<PartialJSONObject>) => JSX.Element;
  /** Show the details of a step. */
  readonly onChoose: (execution: string) => void;
  readonly onOpenArtifact: (artifact: IArtifactName) => void;
  /** What is known of the artifacts that the items of a fan-out logged. */
  readonly logged: (execution: string) => ILogged;
  readonly onMoreLogged: (execution: string) => void;
  /** Show the details of an item of a fan-out. */
  readonly onChooseItem: (execution: string, item: number) => void;
}

/** How many artifacts a run has but for those of items, code that was imported aside. */
export function countArtifacts(detail: IRunDetail): number {
  return groupsOf(detail).reduce(
    (sum, { logged, made }) => sum + logged.length + made.filter(isValue).length,
    0
  );
}

function isValue({ artifact }: IBinding): boolean {
  return artifact !== null && !isCode(artifact);
}

interface IGroup {
  /** Null for what plain cells logged. */
  readonly execution: IExecution | null;
  readonly logged: ReadonlyArray<IBinding>;
  readonly made: ReadonlyArray<IBinding>;
}

function groupsOf(
  { run, executions }: IRunDetail,
  ofItems?: (execution: string) => ILogged
): ReadonlyArray<IGroup> {
  const there = (bindings: ReadonlyArray<IBinding>) => bindings.filter(each => each.artifact);
  return [
    { execution: null, logged: there(run.artifacts), made: [] },
    ...executions.map(execution => ({
      execution,
      logged: there(execution.artifacts),
      made: there(execution.binds)
    }))
  ].filter(({ execution, logged, made }) => {
    const items = execution && ofItems?.(execution.id);
    return logged.length + made.length > 0 || items?.count || items?.error;
  });
}

export function ArtifactList(props: IArtifactListProps): JSX.Element {
  const groups = groupsOf(props.detail, props.logged);
  if (!groups.length) {
    return (
      <Line>
        <span>
          What steps bind to names appears here, and what <code>mlbench.log_artifact</code> keeps:
          files, folders, any value.
        </span>
      </Line>
    );
  }
  return (
    <div className="jp-mlb-ArtifactList">
      {groups.map(group => (
        <Group key={group.execution?.id ?? ''} {...props} group={group} />
      ))}
    </div>
  );
}

function Group(props: IArtifactListProps & { readonly group: IGroup }): JSX.Element {
  const { detail, contents, group } = props;
  const { execution, logged, made } = group;
  const [most, setMost] = React.useState(FEW);
  const { run } = detail;
  const values = made.filter(isValue);
  const left = logged.length + made.length - most;
  const ofItems = execution && props.logged(execution.id);
  const words = [
    logged.length ? `${logged.length.toLocaleString('en-US')} logged` : '',
    values.length ? `${values.length.toLocaleString('en-US')} made` : '',
    ofItems?.count ? `${ofItems.count.toLocaleString('en-US')} logged by items` : ''
  ];
  const bundle = (data: PartialJSONObject) =>
    props.outputs('preview', [{ output_type: 'display_data', data, metadata: {} }]);
  const cards = (bindings: ReadonlyArray<IBinding>, isLogged: boolean) => (
    <BindingCards
      bindings={bindings}
      python={name => pythonCode(run.id, execution?.step ?? null, name, isLogged)}
      contents={contents}
      bundle={bundle}
      onOpen={(digest, name) =>
        props.onOpenArtifact(
          execution ? { digest, execution: execution.id, name } : { digest, run: run.id, name }
        )
      }
    />
  );
  return (
    <section aria-label={execution ? `Artifacts of ${execution.step}` : 'Artifacts of plain cells'}>
      <div className="jp-mlb-ArtifactList-head">
        {execution ? (
          <>
            <StateIcon state={execution.state} size={12} />
            <LinkButton title="Show this step" onClick={() => props.onChoose(execution.id)}>
              {execution.step}
            </LinkButton>
          </>
        ) : (
          <b>plain cells</b>
        )}
        <span className="jp-mod-quiet">{words.filter(Boolean).join(' · ')}</span>
      </div>
      <div className="jp-mlb-ArtifactList-cards">
        {cards(logged.slice(0, most), true)}
        {cards(made.slice(0, Math.max(0, most - logged.length)), false)}
      </div>
      {left > 0 && (
        <LinkButton onClick={() => setMost(most * 4)}>
          Show {counted(left, 'more artifact')}
        </LinkButton>
      )}
      {execution && ofItems && (ofItems.count > 0 || ofItems.error) && (
        <OfItems {...props} bundle={bundle} step={execution} logged={ofItems} />
      )}
    </section>
  );
}

interface IOfItemsProps {
  readonly step: IExecution;
  readonly logged: ILogged;
  readonly contents: IContents;
  readonly bundle: (data: PartialJSONObject) => JSX.Element;
  readonly onOpenArtifact: (artifact: IArtifactName) => void;
  readonly onMoreLogged: (execution: string) => void;
  readonly onChooseItem: (execution: string, item: number) => void;
}

/** What the items of a fan-out logged, each with the item that did. */
function OfItems(props: IOfItemsProps): JSX.Element {
  const { step, logged } = props;
  const { items, count, next, error } = logged;
  const left = count - items.reduce((sum, { artifacts }) => sum + artifacts.length, 0);
  return (
    <>
      <div className="jp-mlb-ArtifactList-cards jp-mod-items">
        {items.map(item =>
          item.artifacts.map(binding => (
            <BindingCard
              key={`${item.id} ${binding.name}`}
              binding={binding}
              python={null}
              contents={props.contents}
              bundle={props.bundle}
              onOpen={(digest, name) => props.onOpenArtifact({ digest, execution: item.id, name })}
              item={
                <LinkButton
                  title={`Show the item of ${step.step} that logged it: ${valuesOf(item)}`}
                  onClick={() => props.onChooseItem(step.id, item.item ?? 0)}
                >
                  {step.step}[{itemName(item)}]
                </LinkButton>
              }
            />
          ))
        )}
      </div>
      {error ? (
        <Problem sentence={error} onRetry={() => props.onMoreLogged(step.id)} />
      ) : (
        next !== null &&
        left > 0 && (
          <div className="jp-mlb-ArtifactList-more">
            <span className="jp-mod-quiet">and {left.toLocaleString('en-US')} more</span>
            <LinkButton onClick={() => props.onMoreLogged(step.id)}>Show more</LinkButton>
          </div>
        )
      )}
    </>
  );
}

/** An item's values with their names, or its number. */
function valuesOf({ label, item }: IExecution): string {
  const values = Object.entries(label).map(pair => pair.join(' = '));
  return values.join(', ') || `item ${item}`;
}
